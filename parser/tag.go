package parser

import (
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// utilityInfo is what is known of a utility statement by its node alone.
type utilityInfo struct {
	tag     string // empty = see commandTag
	kind    Kind
	effects Effects
}

func ddl(tag string) utilityInfo { return utilityInfo{tag, DDL, EffSchemaChange} }

// utilities are the utility statements that have no code of their own in compile, by the names of their nodes.
var utilities = map[string]utilityInfo{
	"LockStmt":       {"LOCK TABLE", Lock, 0},
	"TruncateStmt":   {"TRUNCATE TABLE", Truncate, 0},
	"VacuumStmt":     {"", Maintenance, 0},
	"ClusterStmt":    {"CLUSTER", Maintenance, 0},
	"CheckPointStmt": {"CHECKPOINT", Maintenance, 0},

	"RefreshMatViewStmt": {"REFRESH MATERIALIZED VIEW", Maintenance, 0},
	"CallStmt":           {"CALL", Call, EffUnjudged},
	"DoStmt":             {"DO", Do, EffUnjudged},
	"LoadStmt":           {"LOAD", Load, EffUnjudged},

	"CreateExtensionStmt": {"CREATE EXTENSION", DDL, EffSchemaChange | EffUnjudged},
	"AlterExtensionStmt":  {"ALTER EXTENSION", DDL, EffSchemaChange | EffUnjudged},

	"AlterCollationStmt":           ddl("ALTER COLLATION"),
	"AlterDatabaseRefreshCollStmt": ddl("ALTER DATABASE"),
	"AlterDatabaseSetStmt":         ddl("ALTER DATABASE"),
	"AlterDatabaseStmt":            ddl("ALTER DATABASE"),
	"AlterDefaultPrivilegesStmt":   ddl("ALTER DEFAULT PRIVILEGES"),
	"AlterDomainStmt":              ddl("ALTER DOMAIN"),
	"AlterEnumStmt":                ddl("ALTER TYPE"),
	"AlterEventTrigStmt":           ddl("ALTER EVENT TRIGGER"),
	"AlterExtensionContentsStmt":   ddl("ALTER EXTENSION"),
	"AlterFdwStmt":                 ddl("ALTER FOREIGN DATA WRAPPER"),
	"AlterForeignServerStmt":       ddl("ALTER SERVER"),
	"AlterFunctionStmt":            ddl(""),
	"AlterObjectDependsStmt":       ddl(""),
	"AlterObjectSchemaStmt":        ddl(""),
	"AlterOpFamilyStmt":            ddl("ALTER OPERATOR FAMILY"),
	"AlterOperatorStmt":            ddl("ALTER OPERATOR"),
	"AlterOwnerStmt":               ddl(""),
	"AlterPolicyStmt":              ddl("ALTER POLICY"),
	"AlterPublicationStmt":         ddl("ALTER PUBLICATION"),
	"AlterRoleSetStmt":             ddl("ALTER ROLE"),
	"AlterRoleStmt":                ddl("ALTER ROLE"),
	"AlterSeqStmt":                 ddl("ALTER SEQUENCE"),
	"AlterStatsStmt":               ddl("ALTER STATISTICS"),
	"AlterSubscriptionStmt":        ddl("ALTER SUBSCRIPTION"),
	"AlterSystemStmt":              ddl("ALTER SYSTEM"),
	"AlterTSConfigurationStmt":     ddl("ALTER TEXT SEARCH CONFIGURATION"),
	"AlterTSDictionaryStmt":        ddl("ALTER TEXT SEARCH DICTIONARY"),
	"AlterTableMoveAllStmt":        ddl(""),
	"AlterTableSpaceOptionsStmt":   ddl("ALTER TABLESPACE"),
	"AlterTableStmt":               ddl(""),
	"AlterTypeStmt":                ddl("ALTER TYPE"),
	"AlterUserMappingStmt":         ddl("ALTER USER MAPPING"),
	"CommentStmt":                  ddl("COMMENT"),
	"CompositeTypeStmt":            ddl("CREATE TYPE"),
	"CreateAmStmt":                 ddl("CREATE ACCESS METHOD"),
	"CreateCastStmt":               ddl("CREATE CAST"),
	"CreateConversionStmt":         ddl("CREATE CONVERSION"),
	"CreateDomainStmt":             ddl("CREATE DOMAIN"),
	"CreateEnumStmt":               ddl("CREATE TYPE"),
	"CreateEventTrigStmt":          ddl("CREATE EVENT TRIGGER"),
	"CreateFdwStmt":                ddl("CREATE FOREIGN DATA WRAPPER"),
	"CreateForeignServerStmt":      ddl("CREATE SERVER"),
	"CreateForeignTableStmt":       ddl("CREATE FOREIGN TABLE"),
	"CreateFunctionStmt":           ddl(""),
	"CreateOpClassStmt":            ddl("CREATE OPERATOR CLASS"),
	"CreateOpFamilyStmt":           ddl("CREATE OPERATOR FAMILY"),
	"CreatePLangStmt":              ddl("CREATE LANGUAGE"),
	"CreatePolicyStmt":             ddl("CREATE POLICY"),
	"CreatePublicationStmt":        ddl("CREATE PUBLICATION"),
	"CreateRangeStmt":              ddl("CREATE TYPE"),
	"CreateRoleStmt":               ddl("CREATE ROLE"),
	"CreateSchemaStmt":             ddl("CREATE SCHEMA"),
	"CreateSeqStmt":                ddl("CREATE SEQUENCE"),
	"CreateStatsStmt":              ddl("CREATE STATISTICS"),
	"CreateStmt":                   ddl("CREATE TABLE"),
	"CreateSubscriptionStmt":       ddl("CREATE SUBSCRIPTION"),
	"CreateTableSpaceStmt":         ddl("CREATE TABLESPACE"),
	"CreateTransformStmt":          ddl("CREATE TRANSFORM"),
	"CreateTrigStmt":               ddl("CREATE TRIGGER"),
	"CreateUserMappingStmt":        ddl("CREATE USER MAPPING"),
	"CreatedbStmt":                 ddl("CREATE DATABASE"),
	"DefineStmt":                   ddl(""),
	"DropOwnedStmt":                ddl("DROP OWNED"),
	"DropRoleStmt":                 ddl("DROP ROLE"),
	"DropStmt":                     ddl(""),
	"DropSubscriptionStmt":         ddl("DROP SUBSCRIPTION"),
	"DropTableSpaceStmt":           ddl("DROP TABLESPACE"),
	"DropUserMappingStmt":          ddl("DROP USER MAPPING"),
	"DropdbStmt":                   ddl("DROP DATABASE"),
	"GrantRoleStmt":                ddl(""),
	"GrantStmt":                    ddl(""),
	"ImportForeignSchemaStmt":      ddl("IMPORT FOREIGN SCHEMA"),
	"IndexStmt":                    ddl("CREATE INDEX"),
	"ReassignOwnedStmt":            ddl("REASSIGN OWNED"),
	"ReindexStmt":                  ddl("REINDEX"),
	"RenameStmt":                   ddl(""),
	"RuleStmt":                     ddl("CREATE RULE"),
	"SecLabelStmt":                 ddl("SECURITY LABEL"),
	"ViewStmt":                     ddl("CREATE VIEW"),
}

// commandTag gives PostgreSQL's command tag of a statement.
func commandTag(n *pg_query.Node) string {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_SelectStmt:
		return "SELECT"
	case *pg_query.Node_InsertStmt:
		return "INSERT"
	case *pg_query.Node_UpdateStmt:
		return "UPDATE"
	case *pg_query.Node_DeleteStmt:
		return "DELETE"
	case *pg_query.Node_MergeStmt:
		return "MERGE"
	case *pg_query.Node_CopyStmt:
		return "COPY"
	case *pg_query.Node_TransactionStmt:
		return transactionTags[x.TransactionStmt.Kind]
	case *pg_query.Node_VariableSetStmt:
		switch x.VariableSetStmt.Kind {
		case pg_query.VariableSetKind_VAR_RESET, pg_query.VariableSetKind_VAR_RESET_ALL:
			return "RESET"
		default:
			return "SET"
		}
	case *pg_query.Node_VariableShowStmt:
		return "SHOW"
	case *pg_query.Node_ConstraintsSetStmt:
		return "SET CONSTRAINTS"
	case *pg_query.Node_DiscardStmt:
		return "DISCARD " + discardWord(x.DiscardStmt.Target)
	case *pg_query.Node_PrepareStmt:
		return "PREPARE"
	case *pg_query.Node_ExecuteStmt:
		return "EXECUTE"
	case *pg_query.Node_DeallocateStmt:
		return allTag("DEALLOCATE", x.DeallocateStmt.Name)
	case *pg_query.Node_ExplainStmt:
		return "EXPLAIN"
	case *pg_query.Node_DeclareCursorStmt:
		return "DECLARE CURSOR"
	case *pg_query.Node_FetchStmt:
		if x.FetchStmt.Ismove {
			return "MOVE"
		}
		return "FETCH"
	case *pg_query.Node_ClosePortalStmt:
		return allTag("CLOSE CURSOR", x.ClosePortalStmt.Portalname)
	case *pg_query.Node_ListenStmt:
		return "LISTEN"
	case *pg_query.Node_UnlistenStmt:
		return "UNLISTEN"
	case *pg_query.Node_NotifyStmt:
		return "NOTIFY"
	case *pg_query.Node_CreateTableAsStmt:
		if x.CreateTableAsStmt.Objtype == pg_query.ObjectType_OBJECT_MATVIEW {
			return "CREATE MATERIALIZED VIEW"
		}
		return "CREATE TABLE AS"
	case *pg_query.Node_VacuumStmt:
		if x.VacuumStmt.IsVacuumcmd {
			return "VACUUM"
		}
		return "ANALYZE"
	case *pg_query.Node_GrantStmt:
		return grantTag(x.GrantStmt.IsGrant, "")
	case *pg_query.Node_GrantRoleStmt:
		return grantTag(x.GrantRoleStmt.IsGrant, " ROLE")
	case *pg_query.Node_DropStmt:
		return "DROP " + objectWords(x.DropStmt.RemoveType)
	case *pg_query.Node_DefineStmt:
		return "CREATE " + objectWords(x.DefineStmt.Kind)
	case *pg_query.Node_CreateFunctionStmt:
		if x.CreateFunctionStmt.IsProcedure {
			return "CREATE PROCEDURE"
		}
		return "CREATE FUNCTION"
	case *pg_query.Node_AlterTableStmt:
		return "ALTER " + objectWords(x.AlterTableStmt.Objtype)
	case *pg_query.Node_AlterTableMoveAllStmt:
		return "ALTER " + objectWords(x.AlterTableMoveAllStmt.Objtype)
	case *pg_query.Node_AlterFunctionStmt:
		return "ALTER " + objectWords(x.AlterFunctionStmt.Objtype)
	case *pg_query.Node_RenameStmt:
		kind := x.RenameStmt.RenameType
		if kind == pg_query.ObjectType_OBJECT_COLUMN {
			kind = x.RenameStmt.RelationType
		}
		return "ALTER " + objectWords(kind)
	case *pg_query.Node_AlterOwnerStmt:
		return "ALTER " + objectWords(x.AlterOwnerStmt.ObjectType)
	case *pg_query.Node_AlterObjectSchemaStmt:
		return "ALTER " + objectWords(x.AlterObjectSchemaStmt.ObjectType)
	case *pg_query.Node_AlterObjectDependsStmt:
		return "ALTER " + objectWords(x.AlterObjectDependsStmt.ObjectType)
	default:
		return utilities[nodeName(n)].tag
	}
}

func allTag(tag, name string) string {
	if name == "" {
		return tag + " ALL"
	}
	return tag
}

func grantTag(grant bool, what string) string {
	if grant {
		return "GRANT" + what
	}
	return "REVOKE" + what
}

// objectWords gives the words for a type of objects in a command tag.
func objectWords(t pg_query.ObjectType) string {
	switch t {
	case pg_query.ObjectType_OBJECT_ATTRIBUTE:
		return "TYPE"
	case pg_query.ObjectType_OBJECT_TABCONSTRAINT, pg_query.ObjectType_OBJECT_COLUMN:
		return "TABLE"
	case pg_query.ObjectType_OBJECT_DOMCONSTRAINT:
		return "DOMAIN"
	case pg_query.ObjectType_OBJECT_FDW:
		return "FOREIGN DATA WRAPPER"
	case pg_query.ObjectType_OBJECT_FOREIGN_SERVER:
		return "SERVER"
	case pg_query.ObjectType_OBJECT_LARGEOBJECT:
		return "LARGE OBJECT"
	case pg_query.ObjectType_OBJECT_MATVIEW:
		return "MATERIALIZED VIEW"
	case pg_query.ObjectType_OBJECT_OPCLASS:
		return "OPERATOR CLASS"
	case pg_query.ObjectType_OBJECT_OPFAMILY:
		return "OPERATOR FAMILY"
	case pg_query.ObjectType_OBJECT_STATISTIC_EXT:
		return "STATISTICS"
	case pg_query.ObjectType_OBJECT_TSCONFIGURATION:
		return "TEXT SEARCH CONFIGURATION"
	case pg_query.ObjectType_OBJECT_TSDICTIONARY:
		return "TEXT SEARCH DICTIONARY"
	case pg_query.ObjectType_OBJECT_TSPARSER:
		return "TEXT SEARCH PARSER"
	case pg_query.ObjectType_OBJECT_TSTEMPLATE:
		return "TEXT SEARCH TEMPLATE"
	default:
		return strings.ReplaceAll(strings.TrimPrefix(t.String(), "OBJECT_"), "_", " ")
	}
}

var transactionTags = map[pg_query.TransactionStmtKind]string{
	pg_query.TransactionStmtKind_TRANS_STMT_BEGIN:             "BEGIN",
	pg_query.TransactionStmtKind_TRANS_STMT_START:             "START TRANSACTION",
	pg_query.TransactionStmtKind_TRANS_STMT_COMMIT:            "COMMIT",
	pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK:          "ROLLBACK",
	pg_query.TransactionStmtKind_TRANS_STMT_SAVEPOINT:         "SAVEPOINT",
	pg_query.TransactionStmtKind_TRANS_STMT_RELEASE:           "RELEASE",
	pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:       "ROLLBACK",
	pg_query.TransactionStmtKind_TRANS_STMT_PREPARE:           "PREPARE TRANSACTION",
	pg_query.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:   "COMMIT PREPARED",
	pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED: "ROLLBACK PREPARED",
}
