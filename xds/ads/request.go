package ads

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxNames bounds what one stream may subscribe of one type.
	maxNames = 100_000
	// maxUnserved bounds the type URLs kept for the status.
	maxUnserved = 8
)

// agent is what a client says of its own program.
type agent struct {
	node, name, version string
	// noWildcard: it never means everything by naming nothing.
	noWildcard bool
	// namesOnReconnect: on a reconnect it names what it has of a wildcard in place of asking for the wildcard.
	namesOnReconnect bool
}

func agentOf(n *corev3.Node) agent {
	a := agent{node: n.GetId(), name: n.GetUserAgentName(), version: n.GetUserAgentVersion()}
	a.noWildcard = strings.HasPrefix(strings.ToLower(a.name), "grpc")
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		a.version = versionString(v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
		a.namesOnReconnect = a.name == "envoy" && v.GetMajorNumber() == 1 && v.GetMinorNumber() < 19
	}
	return a
}

func malformed(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "ads: "+format, args...)
}

// typeFor finds the watch of a request, or none for a type that is not served: such a request is noted and not answered,
// since ending the stream would take from the proxy what is served.
func (st *stream) typeFor(url string) (Type, bool, error) {
	if url == "" {
		return 0, false, malformed("a request has no type_url")
	}
	t, ok := typeOf(url)
	if !ok && len(st.unserved) < maxUnserved && !slices.Contains(st.unserved, url) {
		st.unserved = append(st.unserved, strings.Clone(url))
		st.srv.log.Warn("a type that is not served was asked for", "proxy", st.client.Proxy, "type", url)
	}
	return t, ok, nil
}

// checkNames refuses names that nothing can have, and puts the rest into canonical form.
func checkNames(t Type, names []string) error {
	for i, name := range names {
		if name == "" {
			return malformed("a %s request names a resource with an empty name", t)
		}
		names[i] = canonical(name)
	}
	return nil
}

// own is the stored spelling of a name, so that a stream does not keep the memory of its requests.
func (st *stream) own(t Type, name string) string {
	if pub := st.view.current.Load(); pub != nil && t < Runtime {
		if r := pub.snap.sets[t].get(name); r != nil {
			return r.name
		}
	}
	return name
}

// subscribe adds a name, and no longer awaits it.
func (st *stream) subscribe(t Type, name string) error {
	w := &st.watches[t]
	if len(w.names) >= maxNames {
		return status.Errorf(codes.ResourceExhausted, "ads: more than %d %s names on one stream", maxNames, t)
	}
	w.subscribe(st.own(t, name))
	if t == Endpoint {
		delete(st.expected, name)
	}
	return nil
}

// deltaRequest takes one request in. Its mu must not be held.
func (st *stream) deltaRequest(req *discoveryv3.DeltaDiscoveryRequest, now time.Time) error {
	if len(req.GetResourceLocatorsSubscribe())+len(req.GetResourceLocatorsUnsubscribe()) > 0 {
		return malformed("resource locators are not served")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	t, ok, err := st.typeFor(req.GetTypeUrl())
	if !ok || err != nil {
		return err
	}
	subscribe, unsubscribe := req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe()
	if err := checkNames(t, subscribe); err != nil {
		return err
	}
	if err := checkNames(t, unsubscribe); err != nil {
		return err
	}
	w := &st.watches[t]
	first := !w.asked
	w.asked = true
	if nonce := req.GetResponseNonce(); nonce != "" {
		// A stale nonce answers nothing, but the subscription below counts all the same.
		st.answer(t, nonce, req.GetErrorDetail(), now)
	}
	all := slices.Contains(subscribe, wildcard)
	if first {
		if t.fullSet() && !st.agent.noWildcard && len(subscribe) == 0 {
			all = true
		}
		if initial := req.GetInitialResourceVersions(); len(initial) > 0 {
			w.initial = make(map[string]string, len(initial))
			for name, version := range initial {
				w.initial[canonical(name)] = version
			}
			if t.fullSet() && st.agent.namesOnReconnect {
				all, subscribe = true, nil
			}
		}
	}
	if all {
		w.everything()
		w.answer = w.answer && len(w.initial) == 0
		if t == Endpoint {
			st.expected = nil
		}
	}
	for _, name := range subscribe {
		if name == wildcard {
			continue
		}
		if err := st.subscribe(t, name); err != nil {
			return err
		}
		w.demand(name)
	}
	for _, name := range unsubscribe {
		if name == wildcard {
			w.unsubscribeWildcard()
		} else {
			w.unsubscribe(name)
		}
	}
	return nil
}

// sotwRequest takes one request in. Its mu must not be held.
func (st *stream) sotwRequest(req *discoveryv3.DiscoveryRequest, now time.Time) error {
	if len(req.GetResourceLocators()) > 0 {
		return malformed("resource locators are not served")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	t, ok, err := st.typeFor(req.GetTypeUrl())
	if !ok || err != nil {
		return err
	}
	named := req.GetResourceNames()
	if err := checkNames(t, named); err != nil {
		return err
	}
	w := &st.watches[t]
	first, nonce := !w.asked, req.GetResponseNonce()
	w.asked = true
	if !first && nonce != "" {
		st.answer(t, nonce, req.GetErrorDetail(), now)
		if nonce != w.nonce {
			return nil // it was written before the proxy saw the last response; the answer to that one names all again
		}
	}
	w.named = w.named || len(named) > 0
	all := slices.Contains(named, wildcard) || !w.named && t.fullSet() && !st.agent.noWildcard
	if all && !w.wild {
		w.everything()
		if t == Endpoint {
			st.expected = nil
		}
	} else if !all && w.wild {
		w.unsubscribeWildcard()
	}
	forgets := !first && nonce == "" // it starts over, as a client does that had dropped the type
	stays := make(map[string]struct{}, len(named))
	for _, name := range named {
		if name == wildcard {
			continue
		}
		stays[name] = struct{}{}
		if _, has := w.names[name]; has && !forgets {
			continue
		}
		if err := st.subscribe(t, name); err != nil {
			return err
		}
		w.demand(name)
		w.answer = true
	}
	for name := range w.names {
		if _, still := stays[name]; !still {
			delete(w.names, name)
			if !w.wild {
				delete(w.force, name)
				delete(w.gone, name)
			}
		}
	}
	if forgets && w.wild {
		w.everything()
	}
	return nil
}

// answer notes an ACK or a NACK of one of the stream's responses; that of any other is nothing.
func (st *stream) answer(t Type, nonce string, refusal *rpcstatus.Status, now time.Time) {
	w := &st.watches[t]
	s, ok := w.answered(nonce)
	if !ok {
		return
	}
	if refusal != nil {
		text := strings.ToValidUTF8(refusal.GetMessage(), "?")
		w.refuse(s, text, now)
		st.srv.count.nacks[t].Add(1)
		st.view.noteNack(t, s.version, st.client.Proxy, text, now)
		st.srv.log.Warn("a proxy refused a response", "proxy", st.client.Proxy, "type", t.String(), "version", s.version, "error", text)
		if s.body != nil {
			st.lease.refused(s.body, now)
		}
		return
	}
	w.accept(s, now)
	st.srv.count.acks[t].Add(1)
	if s.body != nil {
		st.lease.accepted(s.body)
	}
	if !s.kill.IsZero() {
		st.srv.kill.observe(now.Sub(s.kill))
	}
}
