// Package backend is one connection from pgkennel to PostgreSQL: how it is made, and what its messages mean.
//
// Conn is the machine of a connection that has logged in: a queue of the answers that PostgreSQL owes, and what the connection
// carries (settings, prepared statements, taints). It is pure: bytes go in by Feed, and calls of an Owner come out. It owns no socket, starts no
// goroutine, reads no clock and belongs to one owner at a time; Settler is the owner of a connection that its session has let go of.
// The server may be anybody's: every length is checked before it is used, what is held of a message is bounded, and whatever does not
// answer a step of the queue breaks the connection.
//
// Dial and Cancel are the other half: they block on sockets, TLS handshakes and password hashing, and are called off the loop. They
// know nothing of Conn, which takes over from the Login that Dial returns.
//
// What to send is not decided here: package exec appends the messages and Asks for their answers; sockets belong to package loop,
// lifetimes to package pool.
package backend
