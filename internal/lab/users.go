package lab

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

// UsersOptions say who calls what, and how often.
type UsersOptions struct {
	// Proxies are the addresses (host:port) that requests are sent to; a user keeps to one of them.
	Proxies []string
	// Host is the authority that is asked for; default: the proxy's address.
	Host string
	// Protocol defaults to HTTP.
	Protocol Protocol
	// Path defaults to "/", and for gRPC to "/lab.Echo/Call".
	Path string
	// Rate is requests per second of all users together; 0 is none until SetRate.
	Rate float64
	// Poisson draws the times between requests from an exponential distribution; else they are all the same.
	Poisson bool
	// Concurrency bounds the requests in flight; default 1,000. What is due above it is counted as skipped.
	Concurrency int
	// Users is how many different users there are; default 100. Requests go round them.
	Users int
	// UserHeader carries the user's number; "": not sent.
	UserHeader string
	// Cookies has every user keep and send the cookies that answers set. HTTP and HTTP2 only.
	Cookies bool
	// Headers are sent with every request.
	Headers map[string]string
	// Testers is the part of the users, in [0,1], that also send TesterHeaders.
	Testers       float64
	TesterHeaders map[string]string
	// Posts is the part of the requests, in [0,1], that are POST with a body of Body bytes; the others are GET. gRPC
	// calls always carry a message of that size.
	Posts float64
	Body  int
	// Timeout of a request, from when it is sent; default 10 s.
	Timeout time.Duration
	// Connections is how many connections are kept to each proxy over HTTP2 and gRPC; default 2. HTTP opens as many as it
	// needs and keeps them.
	Connections int
}

// Users send requests at a fixed rate, whatever the answers do (open loop): a slow answer delays no other request, and
// latency counts from when a request was due, so that waiting is never left out. Nothing is retried.
type Users struct {
	o        UsersOptions
	clients  []client
	cancel   context.CancelFunc // ends the requests
	quit     chan struct{}      // ends the arrivals
	stopOnce sync.Once
	arrivals sync.WaitGroup
	requests sync.WaitGroup
	rate     chan float64

	mu       sync.Mutex
	report   Report
	versions []string   // by user: the version that answered first
	switched []bool     // by user
	cookies  [][]string // by user: "name=value"
}

// maxErrors is how many texts of failures a report keeps.
const maxErrors = 8

// client sends a request and waits for the whole answer.
type client interface {
	do(ctx context.Context, c call) answer
	close()
}

type call struct {
	method  string
	headers [][2]string
	body    int
}

type answer struct {
	status  string // as in Report.Status
	version string
	region  string
	cookies []string
	failed  string // what went wrong; "" is good
}

// StartUsers starts users. They send until Stop or until ctx ends.
func StartUsers(ctx context.Context, o UsersOptions) (*Users, error) {
	o.defaults()
	if len(o.Proxies) == 0 {
		return nil, fmt.Errorf("lab: users need a proxy to send to")
	}
	if o.Rate < 0 || o.Testers < 0 || o.Testers > 1 || o.Posts < 0 || o.Posts > 1 || o.Body < 0 {
		return nil, fmt.Errorf("lab: users: rate %v, testers %v, posts %v, body %d; want rate and body >= 0, parts in [0,1]",
			o.Rate, o.Testers, o.Posts, o.Body)
	}
	u := &Users{
		o: o, quit: make(chan struct{}), rate: make(chan float64, 1),
		versions: make([]string, o.Users), switched: make([]bool, o.Users), cookies: make([][]string, o.Users),
		report: Report{}.plus(Report{}),
	}
	for _, proxy := range o.Proxies {
		host := o.Host
		if host == "" {
			host = proxy
		}
		c, err := newClient(o, proxy, host)
		if err != nil {
			for _, c := range u.clients {
				c.close()
			}
			return nil, err
		}
		u.clients = append(u.clients, c)
	}
	ctx, u.cancel = context.WithCancel(ctx)
	u.arrivals.Go(func() { u.arrive(ctx) })
	return u, nil
}

func (o *UsersOptions) defaults() {
	if o.Protocol == "" {
		o.Protocol = HTTP
	}
	if o.Path == "" {
		o.Path = "/"
		if o.Protocol == GRPC {
			o.Path = "/lab.Echo/Call"
		}
	}
	if o.Concurrency == 0 {
		o.Concurrency = 1000
	}
	if o.Users == 0 {
		o.Users = 100
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Connections == 0 {
		o.Connections = 2
	}
	o.Proxies, o.Headers, o.TesterHeaders = slices.Clone(o.Proxies), maps.Clone(o.Headers), maps.Clone(o.TesterHeaders)
}

// SetRate changes the requests per second from now on; 0 is none.
func (u *Users) SetRate(rate float64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.rate: // one that was not taken yet
	default:
	}
	u.rate <- max(rate, 0)
}

// Report returns what the users saw so far.
func (u *Users) Report() Report {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.report
	r.At = time.Now()
	r.Status, r.Version, r.FailedVersion, r.Region = maps.Clone(r.Status), maps.Clone(r.Version), maps.Clone(r.FailedVersion), maps.Clone(r.Region)
	r.Methods, r.FailedMethods = maps.Clone(r.Methods), maps.Clone(r.FailedMethods)
	r.Errors = slices.Clone(r.Errors)
	return r
}

// Stop ends the arrivals, waits for the requests in flight (at most their timeout) and returns the last report. It may be
// called again.
func (u *Users) Stop() Report {
	u.stopOnce.Do(func() {
		close(u.quit)
		u.arrivals.Wait()
		u.requests.Wait()
		u.cancel()
		for _, c := range u.clients {
			c.close()
		}
	})
	return u.Report()
}

// arrive starts requests when they are due. It is late when the machine is; then it starts all that are due at once, and
// their latency counts from when they were.
func (u *Users) arrive(ctx context.Context) {
	rate, due := u.o.Rate, time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; {
		var wake <-chan time.Time
		if rate > 0 {
			timer.Reset(time.Until(due))
			wake = timer.C
		}
		select {
		case <-u.quit:
			return
		case <-ctx.Done():
			return
		case rate = <-u.rate:
			due = time.Now()
			continue
		case <-wake:
		}
		for now := time.Now(); !due.After(now); n++ {
			u.begin(ctx, n, due)
			gap := 1 / rate
			if u.o.Poisson {
				gap *= rand.ExpFloat64()
			}
			due = due.Add(time.Duration(gap * float64(time.Second)))
		}
	}
}

func (u *Users) begin(ctx context.Context, n int, due time.Time) {
	u.mu.Lock()
	u.report.Due++
	if u.report.InFlight >= int64(u.o.Concurrency) {
		u.report.Skipped++
		u.mu.Unlock()
		return
	}
	u.report.Started++
	u.report.InFlight++
	u.mu.Unlock()
	u.requests.Go(func() { u.request(ctx, n%u.o.Users, due) })
}

func (u *Users) request(ctx context.Context, user int, due time.Time) {
	c := u.call(user)
	limited, cancel := context.WithTimeout(ctx, u.o.Timeout)
	a := u.clients[user%len(u.clients)].do(limited, c)
	cancel()
	latency := time.Since(due)

	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.report
	r.InFlight--
	if a.failed != "" && ctx.Err() != nil {
		r.Aborted++
		return
	}
	r.Done++
	r.Status[a.status]++
	r.Version[a.version]++
	r.Region[a.region]++
	r.Methods[c.method]++
	r.Latency.Add(latency)
	if a.failed == "" {
		r.OK++
	} else {
		r.Failed++
		r.FailedMethods[c.method]++
		r.FailedVersion[a.version]++
		if len(r.Errors) < maxErrors {
			r.Errors = append(r.Errors, fmt.Sprintf("%s by user %d: %s", c.method, user, a.failed))
		}
	}
	if a.version != "" {
		if u.versions[user] == "" {
			u.versions[user] = a.version
		} else if u.versions[user] != a.version && !u.switched[user] {
			u.switched[user] = true
			r.Switched++
		}
	}
	if u.o.Cookies {
		for _, cookie := range a.cookies {
			u.keep(user, cookie)
		}
	}
}

// call makes the request of a user.
func (u *Users) call(user int) call {
	c := call{method: "GET"}
	if u.o.Protocol == GRPC {
		c.method, c.body = "CALL", u.o.Body
	} else if u.o.Posts > 0 && rand.Float64() < u.o.Posts {
		c.method, c.body = "POST", u.o.Body
	}
	for name, value := range u.o.Headers {
		c.headers = append(c.headers, [2]string{name, value})
	}
	if u.o.UserHeader != "" {
		c.headers = append(c.headers, [2]string{u.o.UserHeader, strconv.Itoa(user)})
	}
	if float64(user) < u.o.Testers*float64(u.o.Users) {
		for name, value := range u.o.TesterHeaders {
			c.headers = append(c.headers, [2]string{name, value})
		}
	}
	if u.o.Cookies {
		u.mu.Lock()
		for _, cookie := range u.cookies[user] {
			c.headers = append(c.headers, [2]string{"cookie", cookie})
		}
		u.mu.Unlock()
	}
	return c
}

// keep stores a Set-Cookie of an answer without its attributes; u.mu is held.
func (u *Users) keep(user int, cookie string) {
	name := cookieName(cookie)
	for i, have := range u.cookies[user] {
		if cookieName(have) == name {
			u.cookies[user][i] = cookie
			return
		}
	}
	u.cookies[user] = append(u.cookies[user], cookie)
}
