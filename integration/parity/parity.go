// Package parity plays scripts of raw protocol messages to PostgreSQL and to pgkennel in front of it, and compares every byte of the answers. The scripts,
// and what of them may differ, are in testdata; scripts.md tells their language.
package parity
