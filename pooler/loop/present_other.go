//go:build !linux

package loop

// peerAt knows nothing here: what has become of a peer is noticed when it is written to.
func peerAt(uintptr) peer { return peer{} }
