package tenant

import "strconv"

// AdminField binds Record.Admin in the Vault.
const AdminField = "admin"

// Field binds the login's Secret in the Vault. It stays when the login gets another name.
func (l *Login) Field() string { return "login/" + l.Role }

// OwnDatabase is the database of a tenant with an instance of its own, and OwnRole the role of its n-th login there; the first, 0, is the tenant's own.
func OwnDatabase(id string) string { return "t_" + id }

// OwnRole returns the role of the tenant's n-th login.
func OwnRole(id string, n int) string {
	if n == 0 {
		return "t_" + id
	}
	return "t_" + id + "_" + strconv.Itoa(n)
}

// OwnerRole is who owns that database and what is in it. Nobody logs in as it.
func OwnerRole(id string) string { return "t_" + id + "_owner" }
