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
		of(named(m.Interface()))
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
		case *pg_query.CreateConversionStmt:
			of(x.FuncName)
		}
		return true
	})
	return list
}

// named is the name by which a node means, or makes, something in a schema that is no relation; nil = it has none.
func named(node any) []*pg_query.Node {
	switch x := node.(type) {
	case *pg_query.CreateFunctionStmt:
		return x.Funcname
	case *pg_query.CreateTrigStmt:
		return x.Funcname
	case *pg_query.CreateEventTrigStmt:
		return x.Funcname
	case *pg_query.CreateEnumStmt:
		return x.TypeName
	case *pg_query.AlterEnumStmt:
		return x.TypeName
	case *pg_query.CreateRangeStmt:
		return x.TypeName
	case *pg_query.CreateDomainStmt:
		return x.Domainname
	case *pg_query.AlterDomainStmt:
		return x.TypeName
	case *pg_query.DefineStmt:
		return x.Defnames
	case *pg_query.CreateStatsStmt:
		return x.Defnames
	case *pg_query.AlterStatsStmt:
		return x.Defnames
	case *pg_query.AlterTypeStmt:
		return x.TypeName
	case *pg_query.AlterCollationStmt:
		return x.Collname
	case *pg_query.CreateConversionStmt:
		return x.ConversionName
	case *pg_query.CreateOpClassStmt:
		return x.Opclassname
	case *pg_query.CreateOpFamilyStmt:
		return x.Opfamilyname
	case *pg_query.AlterOpFamilyStmt:
		return x.Opfamilyname
	case *pg_query.AlterTSDictionaryStmt:
		return x.Dictname
	case *pg_query.AlterTSConfigurationStmt:
		return x.Cfgname
	case *pg_query.ObjectWithArgs:
		return x.Objname
	case *pg_query.TypeName:
		return x.Names
	case *pg_query.FuncCall:
		return x.Funcname
	}
	return nil
}
