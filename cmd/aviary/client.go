package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// defaultAddress is where `aviary serve` answers the admin API: next to its xDS port, and clear of 9901, which belongs to
// the Envoys on the same machine.
const defaultAddress = "127.0.0.1:18001"

// client is how a verb reaches the control plane.
type client struct {
	address, ca, cert, key, server string
	plaintext                      bool
	timeout                        time.Duration
	author, reason                 string
}

// flags adds those of a verb that talks to a control plane.
func (c *client) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.address, "address", cmp.Or(os.Getenv("AVIARY_ADDRESS"), defaultAddress), "host:port of the control plane's admin API ($AVIARY_ADDRESS)")
	f.StringVar(&c.ca, "ca", os.Getenv("AVIARY_CA"), "file with the authority of the control plane's certificate ($AVIARY_CA)")
	f.StringVar(&c.cert, "cert", os.Getenv("AVIARY_CERT"), "file with the client certificate ($AVIARY_CERT)")
	f.StringVar(&c.key, "key", os.Getenv("AVIARY_KEY"), "file with the client certificate's key ($AVIARY_KEY)")
	f.StringVar(&c.server, "server-name", os.Getenv("AVIARY_SERVER_NAME"), "name that the control plane's certificate must have, when it is not the host's: a DNS name or a URI (spiffe://…) ($AVIARY_SERVER_NAME)")
	f.BoolVar(&c.plaintext, "plaintext", false, "talk without TLS to a control plane that is not on this machine")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for an answer; 0 is for ever")
}

// actFlags adds those of a verb that changes something.
func (c *client) actFlags(cmd *cobra.Command) {
	c.flags(cmd)
	cmd.Flags().StringVar(&c.author, "author", os.Getenv("AVIARY_AUTHOR"), "who does this; a client certificate says it better ($AVIARY_AUTHOR; default the user's name)")
	cmd.Flags().StringVar(&c.reason, "reason", "", "why, for the history")
}

// by is who acts.
func (c *client) by() string {
	if c.author != "" {
		return c.author
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

func (c *client) credentials() (credentials.TransportCredentials, error) {
	if c.ca == "" {
		if c.cert != "" || c.key != "" {
			return nil, errors.New("--cert and --key need --ca, the authority of the control plane's certificate")
		}
		if !c.plaintext && !loopback(c.address) {
			return nil, fmt.Errorf("%s is not on this machine: give --ca (and --cert and --key), or ask for --plaintext", c.address)
		}
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.server, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca: %s holds no certificate in PEM form", c.ca)
	}
	if strings.Contains(c.server, "://") {
		verifyURI(config, c.server)
	}
	if (c.cert == "") != (c.key == "") {
		return nil, errors.New("--cert and --key go together")
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

// verifyURI asks for a URI in the certificate, which crypto/tls knows only by a name of the host.
func verifyURI(config *tls.Config, uri string) {
	config.ServerName = ""
	config.InsecureSkipVerify = true // what is skipped is done here
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		options := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		if _, err := leaf.Verify(options); err != nil {
			return err
		}
		if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == uri }) {
			return fmt.Errorf("the control plane's certificate is for %v, not %s", leaf.URIs, uri)
		}
		return nil
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// with dials, calls f within the timeout, and says in f's error what a person can do about it.
func (c *client) with(ctx context.Context, f func(context.Context, aviaryv1.AdminServiceClient) error) error {
	if _, _, err := net.SplitHostPort(c.address); err != nil {
		return &exitError{exitUsage, fmt.Errorf("--address: %w: expected host:port, such as %s", err, defaultAddress)}
	}
	creds, err := c.credentials()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("--address %s: %w", c.address, err)}
	}
	defer conn.Close()
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	return c.explain(ctx, f(ctx, aviaryv1.NewAdminServiceClient(conn)))
}

// explain turns an error of a call into what went wrong, where, why, and what to do.
func (c *client) explain(ctx context.Context, err error) error {
	var done *exitError
	if err == nil || errors.As(err, &done) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch {
	case st.Code() == codes.Unavailable && connectionFailed(st):
		hint := "Is `aviary serve` running there? --address or $AVIARY_ADDRESS says where it is"
		switch {
		case c.ca == "":
			hint += "; --ca if it speaks TLS"
		case c.cert == "":
			hint = "It may ask for a client certificate: --cert and --key"
		}
		return &exitError{exitUnreachable, fmt.Errorf("no control plane answers at %s: %s\n%s", c.address, cause(st), hint)}
	case st.Code() == codes.Unavailable:
		return &exitError{exitUnreachable, fmt.Errorf("the control plane at %s cannot act: %s", c.address, st.Message())}
	case st.Code() == codes.DeadlineExceeded:
		return &exitError{exitUnreachable, fmt.Errorf("no answer from the control plane at %s within %v: whether it acted is not known; --timeout says how long to wait", c.address, c.timeout)}
	case st.Code() == codes.Canceled && ctx.Err() != nil:
		return errors.New("interrupted before the control plane had answered")
	case st.Code() == codes.Unimplemented:
		return fmt.Errorf("%s does not answer as a control plane of this version: %s", c.address, st.Message())
	}
	if text := problems(st); text != "" {
		return errors.New(text)
	}
	return errors.New(st.Message())
}

// connectionFailed tells an Unavailable of the transport from one that the control plane sent.
func connectionFailed(st *status.Status) bool {
	return slices.ContainsFunc([]string{
		"connection error:", "name resolver error:", "error reading from server:", "read tcp", "write tcp", "connection reset", "EOF",
	}, func(s string) bool { return strings.Contains(st.Message(), s) })
}

// cause is the innermost reason, without the transport's own words around it.
func cause(st *status.Status) string {
	text := st.Message()
	if _, after, ok := strings.Cut(text, `desc = "`); ok {
		text = strings.TrimSuffix(after, `"`)
	}
	for _, p := range []string{"transport: ", "Error while dialing: "} {
		text = strings.TrimPrefix(text, p)
	}
	return strings.ReplaceAll(text, `\"`, `"`)
}

// problems lists what is wrong with documents, one a line; "" when the status carries none.
func problems(st *status.Status) string {
	for _, d := range st.Details() {
		p, ok := d.(*aviaryv1.Problems)
		if !ok || len(p.GetProblems()) == 0 {
			continue
		}
		what, _, _ := strings.Cut(st.Message(), ": ")
		n := len(p.GetProblems()) + int(p.GetMore())
		lines := []string{fmt.Sprintf("%s: %d %s", what, n, plural(n, "problem"))}
		for _, one := range p.GetProblems() {
			lines = append(lines, "  "+problem(one))
		}
		if p.GetMore() > 0 {
			lines = append(lines, fmt.Sprintf("  and %d more", p.GetMore()))
		}
		return strings.Join(lines, "\n")
	}
	return ""
}

func problem(p *aviaryv1.Problem) string {
	var parts []string
	if p.GetFile() != "" {
		parts = append(parts, fmt.Sprintf("%s:%d:%d", p.GetFile(), p.GetLine(), p.GetColumn()))
	}
	for _, s := range []string{p.GetDocument(), p.GetField(), p.GetMessage()} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
