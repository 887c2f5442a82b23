package parser

import "sync/atomic"

// Message is the text of one Query or Parse message, parsed whole. It is immutable, but for Memo.
type Message struct {
	// Shaped: the Message stands for all texts of a Shape: see Value.Literal.
	Shaped   bool
	redirect *redirect
	// Statements in order; none for an empty text (only blanks, comments and semicolons).
	Statements []*Statement
	// Hints are the routing comments of the text.
	Hints Hints
	// Unparsable says why pg_query refused the text; Statements is empty then. Position counts characters, from 1.
	Unparsable *SyntaxError
	// Newer reports that the text, which is Unparsable, may be SQL of a PostgreSQL newer than the parser: see newer.go.
	Newer bool
	// Transcoded reports that the text is not UTF-8: bytes from 0x80 on were read as Latin-1 letters. Names and values beyond ASCII
	// are then not what the server reads; spans are of the original bytes all the same.
	Transcoded bool
	// Names reports that a statement names a prepared statement: PREPARE, EXECUTE, DEALLOCATE.
	Names bool
	// Size is the memory the message holds, in bytes, roughly.
	Size int
	// Memo is the router's: what it made of this message last, for the search paths and clusters that take turns on it. See router.Router.Route.
	Memo [Memos]atomic.Pointer[any]
}

// Memos is how much of what was made of a Message is remembered with it.
const Memos = 4

// SyntaxError is PostgreSQL's own message for a text it can't parse.
type SyntaxError struct {
	Code     string // SQLSTATE: 42601 mostly, 54001 for a statement nested too deeply
	Message  string
	Position int // in characters, from 1; 0 = unknown
}

// Hints are what routing comments ask for: /* pgdog_shard: 1 */, /* pgdog_sharding_key: 42 */, /* pgdog_role: primary */,
// /* pgkennel_tenant: acme */. What is PgDog's may begin with pgkennel_ as well.
// A comment counts anywhere outside of literals. Empty = not given. Two comments that disagree, and a hint without a value, set Conflict.
type Hints struct {
	Shard       string
	ShardingKey string
	Role        string
	Tenant      string
	Conflict    bool
}

// Kind is what a statement is.
type Kind uint8

// The kinds. A statement that the parser knows but that needs no kind of its own is Utility.
const (
	Unknown        Kind = iota
	Select              // SELECT, VALUES, TABLE, with set operations and CTEs
	Insert              //
	Update              //
	Delete              //
	Merge               //
	CopyFrom            // COPY t FROM STDIN (or file/program: see Copy.Server)
	CopyTo              // COPY t TO STDOUT, COPY (query) TO STDOUT
	Begin               // BEGIN, START TRANSACTION
	Commit              // COMMIT, END
	Rollback            // ROLLBACK, ABORT
	Savepoint           //
	RollbackTo          //
	Release             // RELEASE SAVEPOINT
	PrepareTx           // PREPARE TRANSACTION
	CommitPrepared      // COMMIT PREPARED, ROLLBACK PREPARED
	Set                 // SET, SET LOCAL, SET TIME ZONE, SET NAMES, SET ROLE, SET SESSION AUTHORIZATION ...
	SetTransaction      // SET TRANSACTION ..., SET SESSION CHARACTERISTICS AS TRANSACTION ...
	SetConstraints      //
	Reset               // RESET x
	ResetAll            // RESET ALL
	Show                // SHOW x, SHOW ALL
	Discard             // DISCARD ALL, PLANS, SEQUENCES, TEMP: Statement.Name is the word, upper case
	Prepare             // SQL-level PREPARE: Inner is what it prepares
	Execute             // SQL-level EXECUTE: Name, Args
	Deallocate          // Name; empty = ALL
	Explain             // Inner; ExplainAnalyze says whether it runs
	Declare             // DECLARE CURSOR: Name, Inner
	Fetch               // FETCH, MOVE: Name
	ClosePortal         // CLOSE: Name; empty = ALL
	Listen              // Name is the channel
	Unlisten            // Name; empty = *
	Notify              //
	Lock                // LOCK TABLE: Tables
	Truncate            // Tables
	CreateTableAs       // CREATE TABLE AS, SELECT INTO, CREATE MATERIALIZED VIEW: Inner is the query, Tables the target
	DDL                 // CREATE, ALTER, DROP, COMMENT, GRANT, REVOKE, REINDEX, SECURITY LABEL ...: Tables where known
	Maintenance         // VACUUM, ANALYZE, CLUSTER, CHECKPOINT, REFRESH MATERIALIZED VIEW: Tables where known
	Call                // CALL procedure
	Do                  // DO block
	Load                // LOAD 'library'
	Utility             // anything else
)

// Statement is one SQL command.
type Statement struct {
	Kind Kind
	// Start and End are the byte span of the statement in the message's text, without the semicolon; both 0 for an Inner.
	Start, End int
	// Tag is the first word or two as PostgreSQL's command tag has them, for logs: "SELECT", "CREATE TABLE".
	Tag string

	// Query is the statement's tree: Select, Insert, Update, Delete, Merge; of CopyTo the query or a SELECT of the table.
	// Other statements that evaluate expressions with sub-selects (EXECUTE, CALL, COPY FROM ... WHERE) have an empty SelectBlock
	// that holds these in Subqueries. Nil otherwise.
	Query *Query
	// Inner is the statement wrapped by Explain, Prepare, Declare, CreateTableAs; of Execute what it runs, where that was found: see Message.Executing.
	Inner *Statement
	// ExplainAnalyze: the wrapped statement really runs.
	ExplainAnalyze bool
	Copy           *Copy
	// Name of a prepared statement, cursor, savepoint, channel or DISCARD's word, as PostgreSQL folds it.
	Name string
	// NameStart and NameEnd are the byte span of the name of a prepared statement: see Naming. Both 0 where it can't be replaced.
	NameStart, NameEnd int
	// Args of EXECUTE.
	Args []Expr
	// ParamTypes of PREPARE q (types).
	ParamTypes []string
	// Set is for Set, SetTransaction, Reset, Show.
	Set *Setting
	// Tx is for Begin, Commit, Rollback, SetTransaction.
	Tx *Transaction
	// Tables are relations named by utility statements: Lock, Truncate, DDL, Maintenance, CreateTableAs.
	Tables []Table
	// Schemas are those that a utility statement names by themselves, or in the names of things that are no relations: CREATE SCHEMA s, DROP TYPE s.t.
	Schemas []string
	// Calls are all functions called anywhere in the statement (deduplicated), casts excluded; of operators only those that name a schema
	// other than pg_catalog. A column reference t.c may call a function c(t) if t has no such column: only a schema can tell.
	Calls []Function
	// Params is the highest $n in the statement; 0 = none.
	Params int
	// Mixed are the parameters whose type, if none is declared, may be another than that of each place where they stand: $1 is bit 0; the last bit is for all
	// from $64 on. Recast are those of them that have a cast to another type than integers or texts somewhere. Rounds are those that a cast
	// somewhere may make floats. Beside are parameters that stand beside columns of several names.
	Mixed, Recast, Rounds uint64
	Beside                []Beside
	// Effects on the session, inner statements and called built-in functions included.
	Effects Effects
	// SetConfigs are calls of set_config(name, value, is_local) with constant arguments. Such a call that may run never or more than once
	// (anywhere but directly in the select list of a SELECT without FROM and WHERE) is one of Unseen too, unless it is local.
	SetConfigs []Setting
	// Unseen are the settings that set_config may set for the session where only the server knows whether, or to what. EffUnseen is set then.
	Unseen []string
	// Named are the calls of set_config whose setting a parameter names. EffNamed is set then, but in Statement.NamedBy.
	Named []Named
	// Sole is the setting of a SELECT that does nothing but one set_config; nil for all others. SoleParam is the number, from 1, of the parameter that
	// is its value; 0 = its value is a constant.
	Sole      *Setting
	SoleParam int
	// SoleColumn is what its result column is called.
	SoleColumn string
	// ReadOnly: a query that changes nothing by its text: SELECT without locking clause, data-modifying CTE or INTO; SHOW; EXPLAIN without ANALYZE of anything; VALUES.
	// Functions it calls are not judged by it: see Calls.
	ReadOnly bool
	// Evaluates: more than constants is evaluated in it, so that operators, casts or domains of users' own may run.
	Evaluates bool
	// BuiltinCalls: all functions in Calls are PostgreSQL's own, if there are any: see IsBuiltin.
	BuiltinCalls bool
	// Inert: a query, or a change of rows, that leaves nothing in the session, nor tells others anything: neither Effects nor SetConfigs, and BuiltinCalls
	// without pg_notify.
	Inert bool
	// Verdict is package judge's: what it made of this statement last; nil = it is not remembered. See judge.Book.
	Verdict *atomic.Pointer[any]
}

// Effects are what a statement may leave in the session of the server connection that ran it.
type Effects uint32

// The effects.
const (
	EffListen       Effects = 1 << iota // LISTEN
	EffTemp                             // temporary table, view or sequence: CREATE TEMP, SELECT INTO TEMP, pg_temp named as a schema in DDL
	EffAdvisoryLock                     // session-level advisory lock: pg_advisory_lock, pg_try_advisory_lock and their _shared forms (not _xact_)
	EffHoldCursor                       // DECLARE ... WITH HOLD
	EffSQLPrepare                       // SQL-level PREPARE
	EffUnjudged                         // DO, CALL, LOAD, UPDATE pg_settings, CREATE EXTENSION, unknown utility, set_config of a setting that is not named by a constant
	EffSetConfig                        // set_config with constants: SetConfigs
	EffSequenceRead                     // lastval, currval
	EffSchemaChange                     // DDL: cached descriptions and plans may be stale
	EffSetRole                          // SET ROLE, SET SESSION AUTHORIZATION and their RESETs
	EffPreparedTx                       // PREPARE TRANSACTION
	EffLargeObject                      // lo_open and friends
	EffReplication                      // replication and slot functions
	EffTempDropped                      // what EffTemp is about goes with the transaction: ON COMMIT DROP
	EffUnseen                           // set_config of what the text does not say, or that may not run: Unseen
	EffNamed                            // set_config of a setting that a parameter names: Named
)

// Unjudged reports whether what is set is more than the text says.
func (e Effects) Unjudged() bool { return e&(EffUnjudged|EffUnseen|EffNamed) != 0 }

// Setting is one SET, RESET, SHOW or constant set_config.
type Setting struct {
	// Name in lower case, canonical: "timezone" for SET TIME ZONE, "client_encoding" for SET NAMES, "role", "session_authorization", "search_path" for SET SCHEMA.
	Name string
	// Values are the arguments, decoded, in order; nil with Default.
	Values []string
	// SQL is the argument list as SQL text that means the same after "SET name TO ": quoted and normalised. "DEFAULT" with Default.
	SQL string
	// Default: SET x TO DEFAULT, RESET x.
	Default bool
	// Local: SET LOCAL, set_config(..., true).
	Local bool
	// Special marks forms whose SQL can't follow "SET name TO " (SET TIME ZONE INTERVAL ...): SQL is then the whole command after "SET ".
	Special bool
	// Unknown: a local set_config whose value is not constant; Values and SQL are empty.
	Unknown bool
}

// Named is a set_config whose setting is parameter Param, from 1; Local if it is set for the transaction.
type Named struct {
	Param int
	Local bool
}

// Transaction says what BEGIN, COMMIT, ROLLBACK, SET TRANSACTION ask for. Empty or nil = not said.
type Transaction struct {
	Isolation  string // "read committed", "repeatable read", "serializable", "read uncommitted"
	ReadOnly   *bool
	Deferrable *bool
	Chain      bool // COMMIT AND CHAIN, ROLLBACK AND CHAIN
	Session    bool // SET SESSION CHARACTERISTICS
	Snapshot   bool // SET TRANSACTION SNAPSHOT
}

// Copy is a COPY statement's frame.
type Copy struct {
	Table   *Table   // nil for COPY (query) TO
	Columns []string // nil = all
	// Server: the data is a file or a program of the server's, not the client's.
	Server bool
	Format string // "text", "csv", "binary"
	// Text and CSV options, with PostgreSQL's defaults for the format filled in.
	Delimiter, Quote, Escape byte // 0 = none, or not one byte, which PostgreSQL refuses
	Null                     string
	Header                   bool // HEADER, HEADER MATCH
	Encoding                 string
	ForceNull, ForceNotNull  []string // columns; "*" = all
	Where                    bool     // COPY FROM ... WHERE
	Default                  string   // DEFAULT 'marker' (PostgreSQL 16); empty = none
}

// Table names a relation as written; names are folded as PostgreSQL folds them.
type Table struct {
	Catalog string // database, rarely given
	Schema  string // empty = by search_path
	Name    string
	Only    bool
	Temp    bool
}

// Function names a function as written.
type Function struct {
	Schema string // empty = by search_path
	Name   string
	// Args is the number of arguments.
	Args int
}

// QueryKind is what a query block is.
type QueryKind uint8

// The kinds of query blocks.
const (
	SelectBlock QueryKind = iota + 1
	ValuesBlock           // Rows
	SetBlock              // Left, Right: UNION, INTERSECT, EXCEPT
	InsertBlock
	UpdateBlock
	DeleteBlock
	MergeBlock
)

// SetOp is a set operation.
type SetOp uint8

// The set operations.
const (
	Union SetOp = iota + 1
	Intersect
	Except
)

// Query is one block: a SELECT, VALUES, set operation or data-changing statement, with its own scope of names.
type Query struct {
	Kind      QueryKind
	With      []CTE
	Recursive bool

	// SelectBlock: From; UpdateBlock: From; DeleteBlock: the USING list; MergeBlock: the source, one item.
	From  []*From
	Where *Cond // UpdateBlock, DeleteBlock too; MergeBlock: ON
	// Output is the select list, or RETURNING.
	Output []Output

	// SelectBlock.
	Distinct   bool // DISTINCT, DISTINCT ON
	DistinctOn bool // DISTINCT ON (...)
	// GroupBy are the plain expressions of GROUP BY, inside grouping sets too; an ordinal is a ValueInteger, an alias a column.
	GroupBy []Expr
	Grouped bool // GROUP BY, HAVING or a known aggregate in the block
	// MaybeGrouped: a function that is not built in is called in the select list, HAVING or ORDER BY and may be an aggregate,
	// or an aggregate in a sub-select may belong to this block.
	MaybeGrouped bool
	Grouping     bool // GROUPING SETS, ROLLUP, CUBE
	Windows      bool // a window function
	Ordered      bool // ORDER BY; SetBlock and ValuesBlock too
	Limited      bool // LIMIT, OFFSET, FETCH FIRST; SetBlock and ValuesBlock too
	Locking      bool // FOR UPDATE, FOR SHARE ...
	SetReturn    bool // a built-in set-returning function in the select list

	// SetBlock.
	SetOp       SetOp
	Left, Right *Query

	// ValuesBlock: rows of expressions.
	Rows [][]Expr

	// Target of InsertBlock, UpdateBlock, DeleteBlock, MergeBlock.
	Target *From
	// Columns of INSERT; nil = none written.
	Columns []string
	// Source of INSERT: a ValuesBlock, SelectBlock or SetBlock; nil for DEFAULT VALUES.
	Source *Query
	// Overriding: INSERT ... OVERRIDING.
	// Sets are UPDATE's assignments, or those of ON CONFLICT DO UPDATE.
	Sets []Assignment
	// ConflictUpdate: ON CONFLICT DO UPDATE; its WHERE is ConflictWhere.
	ConflictUpdate bool
	ConflictWhere  *Cond
	// Actions of MERGE.
	Actions []MergeAction
	// CurrentOf: WHERE CURRENT OF cursor.
	CurrentOf string

	// Subqueries are all query blocks in expressions of this block (select list, WHERE, ON, VALUES, HAVING, ORDER BY, LIMIT ...),
	// those in Cond trees included, which see this block's names as outer ones.
	Subqueries []*Query
}

// CTE is one WITH query.
type CTE struct {
	Name    string
	Columns []string // column aliases
	Query   *Query
}

// FromKind is what an item of FROM is.
type FromKind uint8

// The kinds of FROM items.
const (
	FromTable    FromKind = iota + 1 // Table: a relation, or a CTE by that name in scope
	FromSubquery                     // Sub
	FromFunction                     // Functions: ROWS FROM, generate_series(...)
	FromJoin                         // Left, Right
	FromOther                        // XMLTABLE, JSON_TABLE ...: opaque
)

// JoinType is the type of a join.
type JoinType uint8

// The join types. CROSS JOIN is an InnerJoin without a condition.
const (
	InnerJoin JoinType = iota + 1
	LeftJoin
	RightJoin
	FullJoin
)

// From is an item of FROM.
type From struct {
	Kind    FromKind
	Alias   string   // empty = none
	Columns []string // column aliases: t(a, b)

	Table *Table // FromTable

	Sub     *Query // FromSubquery
	Lateral bool

	Functions []Function // FromFunction

	Join        JoinType // FromJoin
	Natural     bool
	Using       []string
	On          *Cond
	Left, Right *From
}

// Output is one item of a select list or RETURNING.
type Output struct {
	// Name is the column's name in the result, as PostgreSQL derives it; empty where it can't be told.
	Name string
	// Star: * or t.*; Qualifier is t, or OfExpression for (expression).*, which gives as many columns as its type has.
	Star      bool
	Qualifier string
	Expr      Expr
}

// OfExpression is the Qualifier of (expression).*.
const OfExpression = "(expression)"

// Assignment is column = expression.
type Assignment struct {
	Column string
	Expr   Expr // opaque for multi-column assignments from a sub-select, and for fields or subscripts of a column
}

// MergeAction is one WHEN clause of MERGE.
type MergeAction struct {
	Matched bool // WHEN MATCHED; else WHEN NOT MATCHED [BY TARGET]
	// BySource: WHEN NOT MATCHED BY SOURCE (PostgreSQL 17).
	BySource bool
	Cond     *Cond
	// Kind is InsertBlock, UpdateBlock, DeleteBlock, or 0 for DO NOTHING.
	Kind    QueryKind
	Columns []string
	Values  []Expr // INSERT
	Sets    []Assignment
}

// CondOp is the operator of a condition node.
type CondOp uint8

// The condition operators. NOT is pushed down to the leaves where SQL's three-valued logic allows
// (NOT (a AND b), NOT (x <> y), NOT NOT c), else the whole is CondOpaque.
const (
	CondAnd         CondOp = iota + 1 // Args
	CondOr                            // Args
	CondEqual                         // Left = Right[0]
	CondNotDistinct                   // Left IS NOT DISTINCT FROM Right[0]
	CondIn                            // Left IN (Right...), Left = ANY (ARRAY[...])
	CondAnyArray                      // Left = ANY (Right[0]): one parameter or literal that is an array
	CondIsNull                        // Left IS NULL
	CondTrue                          // constant TRUE
	CondFalse                         // constant FALSE or NULL
	CondOpaque                        // anything else: may be true for any row
)

// Cond is a node of a condition tree. Row comparisons are taken apart into CondAnd and CondOr.
type Cond struct {
	Op    CondOp
	Args  []*Cond
	Left  Expr
	Right []Expr
}

// ExprKind is what an expression is, as far as routing cares.
type ExprKind uint8

// The kinds of expressions.
const (
	ExprOpaque   ExprKind = iota // anything else
	ExprColumn                   // Column
	ExprValue                    // Value: literal or parameter
	ExprSubquery                 // Sub: a scalar sub-select (also in Subqueries of its block), or the sub-select of IN
	ExprDefault                  // DEFAULT in VALUES or SET
)

// Expr is an expression.
type Expr struct {
	Kind   ExprKind
	Column Column
	Value  Value
	Sub    *Query
	// Casts applied around a column or sub-select: lower-case type names, innermost first. For values see Value.Casts.
	Casts []string
}

// Column is a reference to a column: [schema.][table.]name.
type Column struct {
	Schema, Table, Name string
	// Whole: the reference is to a whole row (SELECT o FROM orders o): Name is the relation's.
}

// ValueKind is what a value is.
type ValueKind uint8

// The kinds of values.
const (
	ValueNull    ValueKind = iota
	ValueInteger           // Text: decimal digits with sign, hex, octal, binary and underscores already decoded
	ValueNumeric           // Text: as written, with sign: 7.0, 7e0
	ValueString            // Text: decoded
	ValueBool              // Text: "true", "false"
	ValueParam             // Param: $n
)

// Beside is a parameter that stands beside columns of two names, and so has the type of one of them if it has none of its own.
type Beside struct {
	Param   int
	Columns [2]string
}

// Value is a literal or a parameter.
type Value struct {
	Kind  ValueKind
	Text  string
	Param int
	// Mixed, Recast, Rounds: the parameter is one of Statement.Mixed, Recast, or Rounds, as whoever reads the statement notes.
	Mixed, Recast, Rounds bool
	// Casts applied to it, innermost first, as lower-case type names without pg_catalog and modifiers ("int8", "uuid", "text", "int8[]");
	// typed literals (uuid '...') count as one. Type names are PostgreSQL's internal ones where its grammar gives those (bigint -> "int8").
	Casts []string
	// Start and End are the byte span of the literal or parameter in the message's text; End = 0 where unknown.
	Start, End int
	// Literal is, in a Message that stands for a Shape, 1 + the index of the literal that gives the value, with the sign turned if Negative:
	// Text is only the first text's then. 0: the value is the same in all texts.
	Literal  int
	Negative bool
}
