// Package store keeps what must outlive a process, in etcd: documents with their immutable revisions, the state of
// rollouts, halts, events, leaderships, and what one process hands over to the next.
//
// Bytes and protos come in, bytes and protos go out; nothing here decides. The etcd is either embedded (one process, one
// directory, no open port) or external (one or more processes of every region); both give the same Store.
//
// Keys, all below /aviary/v1/ (names never hold a slash):
//
//	generation                       rises with every change of a document: what an apply is guarded by
//	doc/KIND/NAME                    the newest revision of a document, the deleted ones too
//	rev/KIND/NAME/NUMBER             every revision, never changed
//	state/ROLLOUT/REGION             opaque; written only by the elected one
//	halt/ROLLOUT/REGION/DIGEST       created by anyone, once; removed only by a person's act
//	event/ROLLOUT/NUMBER, eventseq/  the newest events of a rollout and the last number given
//	election/NAME/LEASE              candidates, oldest first
//	handover/NAME                    read once
package store
