// Package clients tests what different clients of xDS are given: our own bootstrap, somebody else's, proxyless gRPC, one
// with a wrong certificate, one that refuses a resource. It has tests alone.
package clients
