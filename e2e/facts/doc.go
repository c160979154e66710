// Package facts holds what the design takes for granted of Envoy against the real binary, one fact a test, so that an Envoy
// that breaks one is noticed. The sidecars are given what xds/resource builds, by xds/ads; no control plane decides
// anything here, so that each net is seen alone.
package facts
