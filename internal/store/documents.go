package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Kinds of documents.
const (
	Region  = "Region"
	Service = "Service"
	Policy  = "Policy"
	Rollout = "Rollout"
)

// Key names a document.
type Key struct{ Kind, Name string }

func (k Key) String() string { return k.Kind + "/" + k.Name }

// KeyOf names a document by its content; its kind is "" when it has no spec.
func KeyOf(d *aviaryv1.Document) Key {
	k := Key{Name: d.GetMetadata().GetName()}
	switch d.GetSpec().(type) {
	case *aviaryv1.Document_Region:
		k.Kind = Region
	case *aviaryv1.Document_Service:
		k.Kind = Service
	case *aviaryv1.Document_Policy:
		k.Kind = Policy
	case *aviaryv1.Document_Rollout:
		k.Kind = Rollout
	}
	return k
}

// Content is a document with the hash that tells it from others.
type Content struct {
	Document *aviaryv1.Document
	Hash     string
}

// Revision is one immutable state of a document.
type Revision struct {
	Key
	// Number counts from 1 and never goes back, not even over a deletion.
	Number int64
	Hash   string
	Author string
	Reason string
	At     time.Time
	// Deleted says that this revision took the document away; Document and Hash are empty then.
	Deleted  bool
	Document *aviaryv1.Document
}

// Outcome is what an apply did with one document.
type Outcome string

// The outcomes.
const (
	Created   Outcome = "created"
	Updated   Outcome = "updated"
	Unchanged Outcome = "unchanged"
	Deleted   Outcome = "deleted"
)

// Batch is what one apply changes: all of it or nothing.
type Batch struct {
	Documents []Content
	Deletes   []Key
	Author    string
	Reason    string
	// Expected is the store revision, from Documents, that the batch was validated against.
	Expected int64
}

// Applied is the revision that a document has after an apply, and how it came by it.
type Applied struct {
	Revision
	Outcome Outcome
}

// Documents returns the newest revision of every document that is not deleted, sorted by kind and name, and the store
// revision at which they were read: it guards an Apply, and is where a Watch goes on.
func (s *Store) Documents(ctx context.Context) ([]Revision, int64, error) {
	got, err := s.client.Get(ctx, root+"doc/", clientv3.WithPrefix())
	if err != nil {
		return nil, 0, s.wrap(err)
	}
	out := make([]Revision, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		r, err := decodeRevision(kv.Value)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", kv.Key, err)
		}
		if !r.Deleted {
			out = append(out, r)
		}
	}
	return out, got.Header.Revision, nil
}

// Get returns the newest revision of a document. ErrNotFound when there is none or it is deleted.
func (s *Store) Get(ctx context.Context, k Key) (Revision, error) {
	path, err := key("doc", k.Kind, k.Name)
	if err != nil {
		return Revision{}, err
	}
	r, err := s.read(ctx, path)
	if err == nil && r.Deleted {
		return Revision{}, fmt.Errorf("%v: %w: deleted by %s in revision %d", k, ErrNotFound, r.Author, r.Number)
	}
	if err != nil {
		return Revision{}, fmt.Errorf("%v: %w", k, err)
	}
	return r, nil
}

// Revision returns one revision of a document, a deletion too. ErrNotFound when there is none of that number.
func (s *Store) Revision(ctx context.Context, k Key, number int64) (Revision, error) {
	path, err := key("rev", k.Kind, k.Name, numeral(number))
	if err != nil {
		return Revision{}, err
	}
	r, err := s.read(ctx, path)
	if err != nil {
		return Revision{}, fmt.Errorf("%v revision %d: %w", k, number, err)
	}
	return r, nil
}

// History returns every revision of a document, newest first. ErrNotFound when there never was one.
func (s *Store) History(ctx context.Context, k Key) ([]Revision, error) {
	path, err := key("rev", k.Kind, k.Name)
	if err != nil {
		return nil, err
	}
	got, err := s.client.Get(ctx, path+"/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return nil, s.wrap(err)
	}
	if len(got.Kvs) == 0 {
		return nil, fmt.Errorf("%v: %w", k, ErrNotFound)
	}
	out := make([]Revision, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		r, err := decodeRevision(kv.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Delete takes one document away; its history stays. Like Apply.
func (s *Store) Delete(ctx context.Context, k Key, author, reason string, expected int64) (Applied, int64, error) {
	out, rev, err := s.Apply(ctx, Batch{Deletes: []Key{k}, Author: author, Reason: reason, Expected: expected})
	if err != nil {
		return Applied{}, 0, err
	}
	return out[0], rev, nil
}

// Apply writes a batch in one transaction and returns what became of each document, in the order of Documents, then
// Deletes, and the store revision after it. A content that is already the newest revision makes no new one.
// Errors: ErrConflict when any document changed since Expected; ErrNotFound for a delete of what is not there;
// ErrTooLarge; ErrInvalid for a document without kind or name, or twice in the batch. After an error of the context or
// the connection the batch may have been written or not: applying it again is safe.
func (s *Store) Apply(ctx context.Context, b Batch) ([]Applied, int64, error) {
	heads, rev, err := s.heads(ctx, b)
	if err != nil {
		return nil, 0, err
	}
	now := time.Now().UTC()
	var out []Applied
	var puts []clientv3.Op
	put := func(r Revision, o Outcome) error {
		value, err := encodeRevision(r)
		if err != nil {
			return fmt.Errorf("%v: %w", r.Key, err)
		}
		out = append(out, Applied{Revision: r, Outcome: o})
		path := r.Kind + "/" + r.Name
		puts = append(puts,
			clientv3.OpPut(root+"doc/"+path, value),
			clientv3.OpPut(root+"rev/"+path+"/"+numeral(r.Number), value))
		return nil
	}
	for _, c := range b.Documents {
		k := KeyOf(c.Document)
		head, ok := heads[k]
		if ok && !head.Deleted && head.Hash == c.Hash {
			out = append(out, Applied{Revision: head, Outcome: Unchanged})
			continue
		}
		o := Updated
		if !ok || head.Deleted {
			o = Created
		}
		r := Revision{Key: k, Number: head.Number + 1, Hash: c.Hash, Author: b.Author, Reason: b.Reason, At: now, Document: c.Document}
		if err := put(r, o); err != nil {
			return nil, 0, err
		}
	}
	for _, k := range b.Deletes {
		head, ok := heads[k]
		if !ok || head.Deleted {
			return nil, 0, fmt.Errorf("%v: %w", k, ErrNotFound)
		}
		r := Revision{Key: k, Number: head.Number + 1, Author: b.Author, Reason: b.Reason, At: now, Deleted: true}
		if err := put(r, Deleted); err != nil {
			return nil, 0, err
		}
	}
	if len(puts) == 0 {
		return out, rev, nil
	}
	puts = append(puts, clientv3.OpPut(root+"generation", ""))
	resp, err := s.client.Txn(ctx).If(unchangedSince(b.Expected)).Then(puts...).Commit()
	if err != nil {
		return nil, 0, s.wrap(err)
	}
	if !resp.Succeeded {
		return nil, 0, fmt.Errorf("%w: since revision %d", ErrConflict, b.Expected)
	}
	return out, resp.Header.Revision, nil
}

func unchangedSince(rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(root+"generation"), "<", rev+1)
}

// heads reads the newest revisions of what the batch names. They may be read in parts: the guard of the batch holds for
// all of them until it commits.
func (s *Store) heads(ctx context.Context, b Batch) (map[Key]Revision, int64, error) {
	if n := len(b.Documents) + len(b.Deletes); n > maxBatch {
		return nil, 0, fmt.Errorf("%w: a batch of %d documents, of at most %d", ErrTooLarge, n, maxBatch)
	}
	named := map[Key]bool{}
	var gets []clientv3.Op
	add := func(k Key) error {
		path, err := key("doc", k.Kind, k.Name)
		if err != nil {
			return fmt.Errorf("document %v: %w", k, err)
		}
		if named[k] {
			return fmt.Errorf("%w: %v is twice in the batch", ErrInvalid, k)
		}
		named[k] = true
		gets = append(gets, clientv3.OpGet(path))
		return nil
	}
	for _, c := range b.Documents {
		if c.Hash == "" {
			return nil, 0, fmt.Errorf("%w: %v has no hash", ErrInvalid, KeyOf(c.Document))
		}
		if err := add(KeyOf(c.Document)); err != nil {
			return nil, 0, err
		}
	}
	for _, k := range b.Deletes {
		if err := add(k); err != nil {
			return nil, 0, err
		}
	}
	heads := map[Key]Revision{}
	var rev int64
	for len(gets) > 0 || rev == 0 {
		n := min(len(gets), 100) // below the default of --max-txn-ops
		resp, err := s.client.Txn(ctx).If(unchangedSince(b.Expected)).Then(gets[:n]...).Commit()
		if err != nil {
			return nil, 0, s.wrap(err)
		}
		if !resp.Succeeded {
			return nil, 0, fmt.Errorf("%w: since revision %d", ErrConflict, b.Expected)
		}
		gets, rev = gets[n:], resp.Header.Revision
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				head, err := decodeRevision(kv.Value)
				if err != nil {
					return nil, 0, fmt.Errorf("%s: %w", kv.Key, err)
				}
				heads[head.Key] = head
			}
		}
	}
	return heads, rev, nil
}

func (s *Store) read(ctx context.Context, path string) (Revision, error) {
	got, err := s.client.Get(ctx, path)
	if err != nil {
		return Revision{}, s.wrap(err)
	}
	if len(got.Kvs) == 0 {
		return Revision{}, ErrNotFound
	}
	return decodeRevision(got.Kvs[0].Value)
}

// record is a revision as it is written. The document is in protobuf's binary form, which reads what older ones wrote.
type record struct {
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Number   int64     `json:"number"`
	Hash     string    `json:"hash,omitempty"`
	Author   string    `json:"author,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at"`
	Deleted  bool      `json:"deleted,omitempty"`
	Document []byte    `json:"document,omitempty"`
}

func encodeRevision(r Revision) (string, error) {
	rec := record{r.Kind, r.Name, r.Number, r.Hash, r.Author, r.Reason, r.At, r.Deleted, nil}
	if r.Document != nil {
		var err error
		if rec.Document, err = proto.Marshal(r.Document); err != nil {
			return "", err
		}
	}
	if n := len(rec.Document) + len(r.Author) + len(r.Reason); n > MaxDocument {
		return "", fmt.Errorf("%w: %d bytes with author and reason, of at most %d", ErrTooLarge, n, MaxDocument)
	}
	b, err := json.Marshal(rec)
	return string(b), err
}

func decodeRevision(b []byte) (Revision, error) {
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return Revision{}, fmt.Errorf("stored revision: %w", err)
	}
	r := Revision{Key{rec.Kind, rec.Name}, rec.Number, rec.Hash, rec.Author, rec.Reason, rec.At, rec.Deleted, nil}
	if !r.Deleted {
		r.Document = new(aviaryv1.Document)
		if err := proto.Unmarshal(rec.Document, r.Document); err != nil {
			return Revision{}, fmt.Errorf("stored document: %w", err)
		}
	}
	return r, nil
}

// numeral is a number whose spelling sorts as it counts.
func numeral(n int64) string {
	d := strconv.FormatInt(max(n, 0), 10)
	return strings.Repeat("0", max(0, 12-len(d))) + d
}
