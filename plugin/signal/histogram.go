package signal

// Histogram counts latencies by bucket: sorted by Edge, no zero counts.
type Histogram []Bucket

// Bucket counts the latencies in (Edges[Edge-1], Edges[Edge]]; Edge == len(Edges) holds what is longer than the last.
type Bucket struct {
	Edge  int
	Count uint64
}
