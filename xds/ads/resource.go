package ads

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Type is a kind of resource. The order of the first four is the order in which additions are sent.
type Type uint8

// The served types.
const (
	Cluster  Type = iota // CDS
	Endpoint             // EDS
	Listener             // LDS
	Route                // RDS
	Runtime              // RTDS; never part of a Snapshot
	numTypes
)

const urlPrefix = "type.googleapis.com/"

var typeURLs = [numTypes]string{
	urlPrefix + "envoy.config.cluster.v3.Cluster",
	urlPrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment",
	urlPrefix + "envoy.config.listener.v3.Listener",
	urlPrefix + "envoy.config.route.v3.RouteConfiguration",
	urlPrefix + "envoy.service.runtime.v3.Runtime",
}

var typeNames = [numTypes]string{"CDS", "EDS", "LDS", "RDS", "RTDS"}

// Types are all served types, in sending order.
func Types() []Type { return []Type{Cluster, Endpoint, Listener, Route, Runtime} }

// URL is the type URL that requests and responses carry.
func (t Type) URL() string { return typeURLs[t] }

// String is the service's short name: CDS, EDS, LDS, RDS or RTDS.
func (t Type) String() string { return typeNames[t] }

// fullSet says that a state-of-the-world response of the type lists everything, so that leaving a name out deletes it. The
// same two types know the wildcard that is meant by naming nothing.
func (t Type) fullSet() bool { return t == Cluster || t == Listener }

func typeOf(url string) (Type, bool) {
	for t, u := range typeURLs {
		if u == url {
			return Type(t), true
		}
	}
	return 0, false
}

// Resource is one immutable, encoded resource. Share it between snapshots and views: streams compare pointers first.
type Resource struct {
	typ     Type
	name    string
	version string
	// eds is the endpoint resource that a cluster asks for on this same stream; empty for any other.
	eds string
	// delta is the resource as a `resources` field of a delta response; sotw is its tail, which is that field of a
	// state-of-the-world response. Kept as mem.Buffer so that sending allocates nothing per resource.
	delta, sotw mem.Buffer
}

// NewResource encodes m, a Cluster, ClusterLoadAssignment, Listener or RouteConfiguration, deterministically; its version
// is the hash of that content, so equal content has an equal version on every replica. It is an error if m is of another
// type, if name is empty or "*", or if m carries another name.
func NewResource(name string, m proto.Message) (*Resource, error) {
	r := &Resource{name: canonical(name)}
	var own string
	switch m := m.(type) {
	case *clusterv3.Cluster:
		r.typ, own = Cluster, m.GetName()
		source := m.GetEdsClusterConfig().GetEdsConfig()
		if m.GetType() == clusterv3.Cluster_EDS && (source.GetAds() != nil || source.GetSelf() != nil) {
			r.eds = canonical(cmp.Or(m.GetEdsClusterConfig().GetServiceName(), own))
		}
	case *endpointv3.ClusterLoadAssignment:
		r.typ, own = Endpoint, m.GetClusterName()
	case *listenerv3.Listener:
		r.typ, own = Listener, m.GetName()
	case *routev3.RouteConfiguration:
		r.typ, own = Route, m.GetName()
	default:
		return nil, fmt.Errorf("ads: resource %q: %T is not served", name, m)
	}
	if name == "" || name == wildcard {
		return nil, fmt.Errorf("ads: %s resource: %q is no name", r.typ, name)
	}
	if canonical(own) != r.name {
		return nil, fmt.Errorf("ads: %s resource %q: the message is named %q", r.typ, name, own)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("ads: %s resource %q: %w", r.typ, name, err)
	}
	sum := sha256.Sum256(value)
	r.version = hex.EncodeToString(sum[:10])
	r.encode(value)
	return r, nil
}

// Type is the resource's type.
func (r *Resource) Type() Type { return r.typ }

// Name is the resource's name; the context parameters of an xdstp name are in their canonical order.
func (r *Resource) Name() string { return r.name }

// Version is the hash of the resource's content.
func (r *Resource) Version() string { return r.version }

// Size is the number of encoded bytes that a response spends on the resource.
func (r *Resource) Size() int { return r.delta.Len() }

// canonical sorts the context parameters of an xdstp name, so that names that are equal by the protocol are equal strings.
func canonical(name string) string {
	if !strings.HasPrefix(name, "xdstp://") {
		return name
	}
	rest, fragment, hasFragment := strings.Cut(name, "#")
	path, query, ok := strings.Cut(rest, "?")
	if !ok {
		return name
	}
	params := strings.Split(query, "&")
	slices.Sort(params)
	name = path + "?" + strings.Join(params, "&")
	if hasFragment {
		name += "#" + fragment
	}
	return name
}

// Snapshot is everything that a view serves but its runtime layer. It is immutable and may be published to several views.
type Snapshot struct {
	sets [Runtime]*set
}

// NewSnapshot composes a snapshot out of shared resources, in any order. Two resources of one type and name are an error.
func NewSnapshot(resources ...*Resource) (*Snapshot, error) {
	s := new(Snapshot)
	var byType [Runtime][]*Resource
	for _, r := range resources {
		byType[r.typ] = append(byType[r.typ], r)
	}
	var errs []error
	for t, list := range byType {
		byName := func(a, b *Resource) int { return strings.Compare(a.name, b.name) }
		if !slices.IsSortedFunc(list, byName) {
			slices.SortFunc(list, byName)
		}
		for i := 1; i < len(list); i++ {
			if list[i].name == list[i-1].name {
				errs = append(errs, fmt.Errorf("ads: snapshot: two %s resources are named %q", Type(t), list[i].name))
			}
		}
		s.sets[t] = newSet(list)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// Version is the hash of all names and versions of a type; it is what a response's version says. Empty for Runtime.
func (s *Snapshot) Version(t Type) string {
	if t >= Runtime {
		return ""
	}
	return s.sets[t].version
}

// Len is the number of resources of a type.
func (s *Snapshot) Len(t Type) int {
	if t >= Runtime {
		return 0
	}
	return len(s.sets[t].sorted)
}

// Get is the resource of that type and name, or nil.
func (s *Snapshot) Get(t Type, name string) *Resource {
	if t >= Runtime {
		return nil
	}
	return s.sets[t].get(canonical(name))
}

// set is the content of one type: sorted by name, immutable but for the memo of differences.
type set struct {
	sorted  []*Resource
	version string

	mu   sync.Mutex
	memo map[string]*diff // guarded by mu; by the version of the older set, which it does not keep alive
}

// diff is what leads from an older set to a newer one.
type diff struct {
	changed []*Resource // added or with other content, as the newer set has them
	removed []*Resource // as the older set had them
}

// maxMemo bounds the differences kept; streams stand at few places at a time.
const maxMemo = 16

func newSet(sorted []*Resource) *set {
	h := sha256.New()
	var buf []byte
	for _, r := range sorted {
		buf = protowire.AppendString(buf[:0], r.name)
		buf = protowire.AppendString(buf, r.version)
		h.Write(buf)
	}
	return &set{sorted: sorted, version: hex.EncodeToString(h.Sum(nil)[:10])}
}

func (s *set) get(name string) *Resource {
	i, ok := slices.BinarySearchFunc(s.sorted, name, func(r *Resource, n string) int { return strings.Compare(r.name, n) })
	if !ok {
		return nil
	}
	return s.sorted[i]
}

// since computes the difference from an older set, once for all who ask.
func (s *set) since(old *set) *diff {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.memo[old.version]; ok {
		return d
	}
	d := new(diff)
	i, j := 0, 0
	for i < len(old.sorted) || j < len(s.sorted) {
		switch {
		case j == len(s.sorted) || i < len(old.sorted) && old.sorted[i].name < s.sorted[j].name:
			d.removed = append(d.removed, old.sorted[i])
			i++
		case i == len(old.sorted) || s.sorted[j].name < old.sorted[i].name:
			d.changed = append(d.changed, s.sorted[j])
			j++
		default:
			if old.sorted[i] != s.sorted[j] && old.sorted[i].version != s.sorted[j].version {
				d.changed = append(d.changed, s.sorted[j])
			}
			i++
			j++
		}
	}
	if s.memo == nil || len(s.memo) >= maxMemo {
		s.memo = make(map[string]*diff, 1)
	}
	s.memo[old.version] = d
	return d
}
