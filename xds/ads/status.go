package ads

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// Transport is the variant that a stream speaks.
type Transport string

// The variants.
const (
	Delta Transport = "delta"
	Sotw  Transport = "sotw"
)

// SyncState says how a proxy stands to the newest content of a type.
type SyncState string

// The states of a type at a proxy.
const (
	Unasked SyncState = "unasked" // the proxy did not subscribe
	Waiting SyncState = "waiting" // nothing is published yet
	Synced  SyncState = "synced"  // the newest content is ACKed
	Stale   SyncState = "stale"   // newer content is to be sent, or sent and not answered
	Nacked  SyncState = "nacked"  // the newest content was refused; it is not sent again until it changes
)

// TypeStatus is what a proxy knows of one type.
type TypeStatus struct {
	Type       Type
	State      SyncState
	Wildcard   bool
	Names      int    // explicitly subscribed names
	Intended   string // version of the newest content
	Sent       string // version up to which everything was sent
	Acked      string // version up to which everything was ACKed; never one that was only sent
	SentAt     time.Time
	AckedAt    time.Time
	Nack       string // text of the refusal that stands; empty if none
	NackSent   string // the refused version
	NackedAt   time.Time
	Held       string // why newer content is not sent yet; empty if it is
	NacksTotal uint64 // on this stream
}

// LeaseState is how a proxy stands to the lease of its layer.
type LeaseState string

// The states of a lease.
const (
	LeaseNone   LeaseState = "none"   // never given since it connected, or the layer has no TTL
	LeaseHeld   LeaseState = "leased" // the values stand at the proxy
	LeaseLapsed LeaseState = "lapsed" // nobody renewed it: the sidecar dropped the layer
)

// ProxyStatus is one connected proxy. With several streams under its name it shows the newest.
type ProxyStatus struct {
	Client
	Node             string // node id, as claimed
	Transport        Transport
	UserAgent        string
	UserAgentVersion string
	Connected        time.Time
	Streams          int
	Types            []TypeStatus // of all five types, in sending order
	Unserved         []string     // type URLs that it asked for and that are not served

	Lease      LeaseState
	LeaseUntil time.Time // end of the lease as the server believes it; zero if it never had one
	Renewed    time.Time // the last renewal; zero if none
	// Effective is the layer that the proxy ACKed and that still stands there; nil if it has none, or an empty one: then
	// the values of RDS hold. Not to be changed.
	Effective *structpb.Struct
}

// NackCount counts the proxies of a view that refused one version of a type, since it was published.
type NackCount struct {
	View    string
	Type    Type
	Version string
	Proxies int
	Text    string // of the last refusal
	Last    time.Time
}

// Stats are counters since New, and gauges of now.
type Stats struct {
	Streams     int // gauge
	Proxies     int // gauge
	KillPending int // gauge: streams that have not ACKed what last went through the kill lane
	Leased      int // gauge
	Opened      uint64
	Refused     uint64 // streams ended by Identify
	Closed      uint64 // streams ended by the server for not answering in time
	Malformed   uint64 // streams ended for a malformed request
	Publishes   uint64
	Skipped     uint64 // published contents that some stream never had to see, by stream and type
	Pushes      [numTypes]uint64
	Acks        [numTypes]uint64
	Nacks       [numTypes]uint64
	Bytes       uint64
	Heartbeats  uint64
	Lapses      uint64
	Kill        Latency // publish in the kill lane to ACK, by stream
}

// Latency is a histogram of durations.
type Latency struct {
	Count   uint64
	Sum     time.Duration
	Max     time.Duration
	Buckets []Bucket // with ascending bounds, not cumulative, only those that counted
}

// Bucket counts the durations that were at most Bound and over the bound before it.
type Bucket struct {
	Bound time.Duration
	Count uint64
}

// Quantile is the bound of the bucket in which the q-quantile lies (q in 0..1), at most 19 % over the truth; 0 without data.
func (l Latency) Quantile(q float64) time.Duration {
	need := q * float64(l.Count)
	var seen uint64
	for _, b := range l.Buckets {
		if seen += b.Count; float64(seen) >= need {
			return min(b.Bound, l.Max)
		}
	}
	return l.Max
}

// Proxies is the state of every connected proxy, sorted by name.
func (s *Server) Proxies() []ProxyStatus { return s.statusOf(s.connected()) }

// ProxiesIn is Proxies of one region, without making the status of any other.
func (s *Server) ProxiesIn(region string) []ProxyStatus {
	s.mu.Lock()
	in := map[string][]*stream{}
	for name, p := range s.proxies {
		if n := len(p.streams); n > 0 && p.streams[n-1].client.Region == region {
			in[name] = slices.Clone(p.streams)
		}
	}
	s.mu.Unlock()
	return s.statusOf(in)
}

func (s *Server) statusOf(connected map[string][]*stream) []ProxyStatus {
	out := make([]ProxyStatus, 0, len(connected))
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(connected)) {
		streams := connected[name]
		p := streams[len(streams)-1].status(now)
		p.Streams = len(streams)
		out = append(out, p)
	}
	return out
}

func (st *stream) status(now time.Time) ProxyStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := ProxyStatus{
		Client: st.client, Node: st.agent.node, Transport: st.transport,
		UserAgent: st.agent.name, UserAgentVersion: st.agent.version,
		Connected: st.connected, Unserved: slices.Clone(st.unserved),
		Lease: LeaseNone, LeaseUntil: st.lease.until, Effective: st.lease.effective(now),
	}
	if renewed, ok := st.proxy.lastRenewal(); ok {
		p.Renewed = renewed
	}
	if cur := st.view.layer.Load(); cur != nil && cur.TTL > 0 {
		switch ls := &st.lease; {
		case ls.lapsed || ls.running() && !now.Before(ls.until):
			p.Lease = LeaseLapsed
		case ls.running():
			p.Lease = LeaseHeld
		}
	}
	pub := st.view.current.Load()
	for t := range numTypes {
		p.Types = append(p.Types, st.typeStatus(t, pub, now))
	}
	return p
}

func (st *stream) typeStatus(t Type, pub *published, now time.Time) TypeStatus {
	w := &st.watches[t]
	s := TypeStatus{
		Type: t, Wildcard: w.wild, Names: len(w.names), Sent: w.sent, Acked: w.acked, SentAt: w.sentAt, AckedAt: w.ackedAt,
		Nack: w.nack, NackSent: w.nackSent, NackedAt: w.nackAt, NacksTotal: w.nacks,
	}
	behind := len(w.flight) > 0
	published := pub != nil
	if t == Runtime {
		cur := st.view.layer.Load()
		published = cur != nil
		if published && w.wants(cur.Name) {
			last := st.lease.last
			s.Intended = cur.live.hash
			behind = behind || last == nil || !last.layer.same(cur)
		}
	} else if published {
		to := pub.snap.sets[t]
		s.Intended = to.version
		if w.asked && w.at != to && t >= Listener && st.urgentGen == pub.urgentGen {
			s.Held = st.held(t, pub, now)
		}
		behind = behind || w.at != to || len(w.gone) > 0
	}
	switch {
	case !w.asked:
		s.State = Unasked
	case !published:
		s.State = Waiting
	case w.parked:
		s.State = Nacked
	case behind:
		s.State = Stale
	default:
		s.State = Synced
	}
	return s
}
