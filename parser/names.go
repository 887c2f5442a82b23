package parser

import (
	"strconv"
	"strings"
)

var kindNames = [...]string{
	Unknown: "Unknown", Select: "Select", Insert: "Insert", Update: "Update", Delete: "Delete", Merge: "Merge", CopyFrom: "CopyFrom", CopyTo: "CopyTo",
	Begin: "Begin", Commit: "Commit", Rollback: "Rollback", Savepoint: "Savepoint", RollbackTo: "RollbackTo", Release: "Release",
	PrepareTx: "PrepareTx", CommitPrepared: "CommitPrepared", Set: "Set", SetTransaction: "SetTransaction", SetConstraints: "SetConstraints",
	Reset: "Reset", ResetAll: "ResetAll", Show: "Show", Discard: "Discard", Prepare: "Prepare", Execute: "Execute", Deallocate: "Deallocate",
	Explain: "Explain", Declare: "Declare", Fetch: "Fetch", ClosePortal: "ClosePortal", Listen: "Listen", Unlisten: "Unlisten", Notify: "Notify",
	Lock: "Lock", Truncate: "Truncate", CreateTableAs: "CreateTableAs", DDL: "DDL", Maintenance: "Maintenance", Call: "Call", Do: "Do", Load: "Load", Utility: "Utility",
}

// String gives the constant's name.
func (k Kind) String() string { return nameOf(kindNames[:], int(k), "Kind") }

func nameOf(names []string, i int, what string) string {
	if i < len(names) {
		return names[i]
	}
	return what + "(" + strconv.Itoa(i) + ")"
}

var effectNames = [...]string{
	"listen", "temp", "advisory-lock", "hold-cursor", "sql-prepare", "unjudged", "set-config", "sequence-read", "schema-change", "set-role",
	"prepared-tx", "large-object", "replication", "temp-dropped", "unseen", "named",
}

// String gives the effects' names, joined by +.
func (e Effects) String() string {
	var parts []string
	for i := range effectNames {
		if e&(1<<i) != 0 {
			parts = append(parts, effectNames[i])
		}
	}
	return strings.Join(parts, "+")
}

var queryKindNames = [...]string{"nothing", SelectBlock: "select", ValuesBlock: "values", SetBlock: "set-operation", InsertBlock: "insert", UpdateBlock: "update", DeleteBlock: "delete", MergeBlock: "merge"}

// String gives the kind's name in lower case.
func (k QueryKind) String() string { return nameOf(queryKindNames[:], int(k), "QueryKind") }

var setOpNames = [...]string{"", Union: "union", Intersect: "intersect", Except: "except"}

// String gives the operation's name in lower case.
func (o SetOp) String() string { return nameOf(setOpNames[:], int(o), "SetOp") }

var fromKindNames = [...]string{"", FromTable: "table", FromSubquery: "subquery", FromFunction: "function", FromJoin: "join", FromOther: "other"}

// String gives the kind's name in lower case.
func (k FromKind) String() string { return nameOf(fromKindNames[:], int(k), "FromKind") }

var joinNames = [...]string{"", InnerJoin: "inner", LeftJoin: "left", RightJoin: "right", FullJoin: "full"}

// String gives the type's name in lower case.
func (t JoinType) String() string { return nameOf(joinNames[:], int(t), "JoinType") }
