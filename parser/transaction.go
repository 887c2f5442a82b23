package parser

import (
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

func (u *unit) transaction(t *pg_query.TransactionStmt) {
	s := u.s
	switch t.Kind {
	case pg_query.TransactionStmtKind_TRANS_STMT_BEGIN, pg_query.TransactionStmtKind_TRANS_STMT_START:
		s.Kind, s.Tx = Begin, &Transaction{}
		u.modes(s.Tx, t.Options)
	case pg_query.TransactionStmtKind_TRANS_STMT_COMMIT:
		s.Kind, s.Tx = Commit, &Transaction{Chain: t.Chain}
	case pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK:
		s.Kind, s.Tx = Rollback, &Transaction{Chain: t.Chain}
	case pg_query.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
		s.Kind, s.Name = Savepoint, t.SavepointName
	case pg_query.TransactionStmtKind_TRANS_STMT_RELEASE:
		s.Kind, s.Name = Release, t.SavepointName
	case pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		s.Kind, s.Name = RollbackTo, t.SavepointName
	case pg_query.TransactionStmtKind_TRANS_STMT_PREPARE:
		s.Kind, s.Name, s.Effects = PrepareTx, t.Gid, EffPreparedTx
	case pg_query.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED, pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED:
		s.Kind, s.Name = CommitPrepared, t.Gid
	default:
		s.Kind, s.Effects = Utility, EffUnjudged
	}
}

// modes reads a list of transaction modes, of which the last one of a sort counts, and writes them as SQL.
func (u *unit) modes(tx *Transaction, list []*pg_query.Node) string {
	var sql []string
	for _, n := range list {
		d := n.GetDefElem()
		v := u.classify(d.GetArg()).Value
		on := v.Text != "0"
		switch d.GetDefname() {
		case "transaction_isolation":
			tx.Isolation = lower(v.Text)
			sql = append(sql, "ISOLATION LEVEL "+strings.ToUpper(tx.Isolation))
		case "transaction_read_only":
			tx.ReadOnly = &on
			if on {
				sql = append(sql, "READ ONLY")
			} else {
				sql = append(sql, "READ WRITE")
			}
		case "transaction_deferrable":
			tx.Deferrable = &on
			if on {
				sql = append(sql, "DEFERRABLE")
			} else {
				sql = append(sql, "NOT DEFERRABLE")
			}
		default:
			u.s.Effects |= EffUnjudged
		}
	}
	return strings.Join(sql, ", ")
}

// setTransaction compiles SET TRANSACTION and SET SESSION CHARACTERISTICS.
func (u *unit) setTransaction(v *pg_query.VariableSetStmt, set *Setting) {
	s := u.s
	s.Kind, s.Set, s.Tx = SetTransaction, set, &Transaction{}
	set.Special = true
	switch v.Name {
	case "TRANSACTION":
		set.SQL = "TRANSACTION " + u.modes(s.Tx, v.Args)
	case "SESSION CHARACTERISTICS":
		s.Tx.Session = true
		set.SQL = "SESSION CHARACTERISTICS AS TRANSACTION " + u.modes(s.Tx, v.Args)
	case "TRANSACTION SNAPSHOT":
		s.Tx.Snapshot = true
		if len(v.Args) == 1 {
			set.Values = []string{v.Args[0].GetAConst().GetSval().GetSval()}
			set.SQL = "TRANSACTION SNAPSHOT " + quoteLiteral(set.Values[0])
		}
	default:
		s.Effects |= EffUnjudged
	}
}
