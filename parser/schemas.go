package parser

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// schemasOf finds the schemas that a utility statement names, but for those of its relations.
func schemasOf(n *pg_query.Node) []string {
	var list []string
	add := func(schema string) {
		if schema != "" && schema != "pg_catalog" && !slices.Contains(list, schema) {
			list = append(list, schema)
		}
	}
	of := func(path []*pg_query.Node) {
		schema, _ := qualified(path)
		add(schema)
	}
	// What a statement is about: a schema, or something in one.
	object := func(kind pg_query.ObjectType, x *pg_query.Node) {
		switch kind {
		case pg_query.ObjectType_OBJECT_SCHEMA:
			add(x.GetString_().GetSval())
		case pg_query.ObjectType_OBJECT_OPCLASS, pg_query.ObjectType_OBJECT_OPFAMILY:
			if items := x.GetList().GetItems(); len(items) > 0 {
				of(items[1:]) // the access method comes first
			}
		case pg_query.ObjectType_OBJECT_COLLATION, pg_query.ObjectType_OBJECT_CONVERSION, pg_query.ObjectType_OBJECT_STATISTIC_EXT, pg_query.ObjectType_OBJECT_TSPARSER,
			pg_query.ObjectType_OBJECT_TSDICTIONARY, pg_query.ObjectType_OBJECT_TSTEMPLATE, pg_query.ObjectType_OBJECT_TSCONFIGURATION,
			pg_query.ObjectType_OBJECT_DOMAIN, pg_query.ObjectType_OBJECT_TYPE:
			of(x.GetList().GetItems())
		default: // relations, or in no schema, or named by nodes of their own
		}
	}
	eachMessage(n.ProtoReflect(), func(m protoreflect.Message) bool {
		switch x := m.Interface().(type) {
		case *pg_query.CreateSchemaStmt:
			add(x.Schemaname)
			if x.Schemaname == "" {
				add(x.Authrole.GetRolename())
			}
		case *pg_query.DropStmt:
			for _, o := range x.Objects {
				object(x.RemoveType, o)
			}
		case *pg_query.CommentStmt:
			object(x.Objtype, x.Object)
		case *pg_query.SecLabelStmt:
			object(x.Objtype, x.Object)
		case *pg_query.AlterOwnerStmt:
			object(x.ObjectType, x.Object)
		case *pg_query.AlterObjectSchemaStmt:
			object(x.ObjectType, x.Object)
			add(x.Newschema)
		case *pg_query.RenameStmt:
			object(x.RenameType, x.Object)
			if x.RenameType == pg_query.ObjectType_OBJECT_SCHEMA {
				add(x.Subname)
				add(x.Newname)
			}
		case *pg_query.GrantStmt:
			for _, o := range x.Objects {
				if x.Targtype == pg_query.GrantTargetType_ACL_TARGET_ALL_IN_SCHEMA || x.Objtype == pg_query.ObjectType_OBJECT_SCHEMA {
					add(o.GetString_().GetSval())
				} else {
					object(x.Objtype, o)
				}
			}
		case *pg_query.AlterDefaultPrivilegesStmt:
			for _, o := range x.Options {
				if d := o.GetDefElem(); d.GetDefname() == "schemas" {
					for _, s := range d.GetArg().GetList().GetItems() {
						add(s.GetString_().GetSval())
					}
				}
			}
		case *pg_query.CreateExtensionStmt:
			for _, o := range x.Options {
				if d := o.GetDefElem(); d.GetDefname() == "schema" {
					add(d.GetArg().GetString_().GetSval())
				}
			}
		case *pg_query.CreateFunctionStmt:
			of(x.Funcname)
		case *pg_query.CreateTrigStmt:
			of(x.Funcname)
		case *pg_query.CreateEventTrigStmt:
			of(x.Funcname)
		case *pg_query.CreateEnumStmt:
			of(x.TypeName)
		case *pg_query.AlterEnumStmt:
			of(x.TypeName)
		case *pg_query.CreateRangeStmt:
			of(x.TypeName)
		case *pg_query.CreateDomainStmt:
			of(x.Domainname)
		case *pg_query.AlterDomainStmt:
			of(x.TypeName)
		case *pg_query.DefineStmt:
			of(x.Defnames)
		case *pg_query.CreateStatsStmt:
			of(x.Defnames)
		case *pg_query.AlterStatsStmt:
			of(x.Defnames)
		case *pg_query.AlterTypeStmt:
			of(x.TypeName)
		case *pg_query.AlterCollationStmt:
			of(x.Collname)
		case *pg_query.CreateConversionStmt:
			of(x.ConversionName)
			of(x.FuncName)
		case *pg_query.CreateOpClassStmt:
			of(x.Opclassname)
		case *pg_query.CreateOpFamilyStmt:
			of(x.Opfamilyname)
		case *pg_query.AlterOpFamilyStmt:
			of(x.Opfamilyname)
		case *pg_query.AlterTSDictionaryStmt:
			of(x.Dictname)
		case *pg_query.AlterTSConfigurationStmt:
			of(x.Cfgname)
		case *pg_query.ObjectWithArgs:
			of(x.Objname)
		case *pg_query.TypeName:
			of(x.Names)
		case *pg_query.FuncCall:
			of(x.Funcname)
		}
		return true
	})
	return list
}
