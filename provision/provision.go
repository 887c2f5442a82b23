// Package provision makes, changes and removes tenants: it carries out orders as operations of small steps, each of which the directory has on record, so
// that whoever comes after a crash goes on from there or undoes it.
//
// A Manager runs the operations of the tenants of its host. Instances are made by a Driver, virtual tenants by a Virtual, copies are kept by an Archive; these
// are packages of their own.
package provision
