package admin

// verb is what a command does, as far as permission goes.
type verb uint8

const (
	verbShow verb = iota + 1
	verbShowParameter
	verbSelect
	verbSet         // SET, RESET of session parameters: accepted for the sake of drivers, without effect
	verbTransaction // BEGIN, COMMIT, ROLLBACK: likewise
	verbDiscard     // DISCARD, DEALLOCATE, CLOSE ALL, UNLISTEN *
	verbReload
	verbPause
	verbResume
	verbReconnect
	verbKill
	verbKillClient
	verbDisable
	verbEnable
	verbWaitClose
	verbShutdown
	verbTenant // CREATE, ALTER, DROP TENANT
)

const numVerbs = int(verbTenant) + 1

// verbs is the table of who may do what. Whoever may look may not act: a verb that changes anything has stats false.
var verbs = [numVerbs]struct {
	name         string
	admin, stats bool
}{
	verbShow:          {"SHOW", true, true},
	verbShowParameter: {"SHOW", true, true},
	verbSelect:        {"SELECT", true, true},
	verbSet:           {"SET", true, true},
	verbTransaction:   {"BEGIN", true, true},
	verbDiscard:       {"DISCARD", true, true},
	verbReload:        {"RELOAD", true, false},
	verbPause:         {"PAUSE", true, false},
	verbResume:        {"RESUME", true, false},
	verbReconnect:     {"RECONNECT", true, false},
	verbKill:          {"KILL", true, false},
	verbKillClient:    {"KILL_CLIENT", true, false},
	verbDisable:       {"DISABLE", true, false},
	verbEnable:        {"ENABLE", true, false},
	verbWaitClose:     {"WAIT_CLOSE", true, false},
	verbShutdown:      {"SHUTDOWN", true, false},
	verbTenant:        {"TENANT", true, false},
}

// String names the command.
func (v verb) String() string {
	if v == 0 || int(v) >= numVerbs {
		return "unknown"
	}
	return verbs[v].name
}

func (v verb) allowed(a Access) bool {
	if v == 0 || int(v) >= numVerbs {
		return false
	}
	switch a {
	case AccessAdmin:
		return verbs[v].admin
	case AccessStats:
		return verbs[v].stats
	}
	return false
}
