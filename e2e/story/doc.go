// Package story plays rollouts on real Envoys, with the real process: canaries that break in every way, those that do not,
// and what people do meanwhile.
package story
