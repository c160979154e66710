// Package ads serves Envoy resources over one aggregated discovery stream: LDS, RDS, CDS, EDS and RTDS, in the delta and
// the state-of-the-world variant.
//
// Resources come in as snapshots of named views (Publish) and as one runtime layer per view (PublishLayer); what proxies
// said of them goes out as values (Proxies, Stats, Nacks). The package knows no plan, no policy and no store, and it
// decides no weight. It does own the clock of the lease: a layer with a TTL reaches a proxy only while somebody vouches for
// that proxy with Renew.
//
// A resource is encoded once and its bytes are shared by every stream of every view. A publish swaps a pointer and wakes
// the view's streams; each stream compares where it stands with the newest content through a difference that is computed
// once for all streams that stand at the same place. At most one response per type and stream is unacknowledged, so a
// stream that falls behind skips to the newest content and holds no queue.
package ads
