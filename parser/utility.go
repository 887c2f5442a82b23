package parser

import (
	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// utility compiles the statements that need no more than their kind, the relations they name and their sub-selects.
func (u *unit) utility(n *pg_query.Node) {
	s := u.s
	name := nodeName(n)
	if info, known := utilities[name]; known {
		s.Kind, s.Effects = info.kind, s.Effects|info.effects
	} else {
		s.Kind, s.Effects = Utility, s.Effects|EffUnjudged
	}
	s.Schemas = schemasOf(n)
	switch x := n.GetNode().(type) {
	case *pg_query.Node_CallStmt:
		b := u.block(SelectBlock, nil)
		if x.CallStmt.Funccall != nil {
			b.funcCall(x.CallStmt.Funccall)
		}
		u.keep(b)
		return
	case *pg_query.Node_LoadStmt:
		s.Name = x.LoadStmt.Filename
	}
	s.Tables = append(s.Tables, relations(n)...)
	if s.Kind == DDL {
		if temporaryObject(n) {
			s.Effects |= EffTemp
			if n.GetCreateStmt().GetOncommit() == pg_query.OnCommitAction_ONCOMMIT_DROP {
				s.Effects |= EffTempDropped
			}
		}
		u.bodies(n)
		return
	}
	b := u.block(SelectBlock, nil)
	b.children(n)
	u.keep(b)
}

// bodies finds the calls and parameters in a DDL statement: its defaults, checks, views and function bodies. Their relations are in
// Tables already, and their blocks run at some other time, so no Query is kept of them.
func (u *unit) bodies(n *pg_query.Node) {
	b := u.block(SelectBlock, nil)
	var look func(n *pg_query.Node)
	look = func(n *pg_query.Node) {
		switch x := n.GetNode().(type) {
		case *pg_query.Node_FuncCall:
			b.u.call(function(x.FuncCall))
		case *pg_query.Node_ParamRef:
			u.s.Params = max(u.s.Params, int(x.ParamRef.Number))
		}
		eachBelow(n, look)
	}
	effects := u.s.Effects
	look(n)
	u.s.Effects = effects // what is called in a body is not called by the statement
}

// nodeName gives the name of the message in n: "CreateStmt".
func nodeName(n *pg_query.Node) string {
	m := n.ProtoReflect()
	if fd := m.WhichOneof(nodeOneof); fd != nil {
		return string(fd.Message().Name())
	}
	return ""
}

// relations finds all relations that a utility statement names: its RangeVars, and the objects that its kind says are relations.
func relations(n *pg_query.Node) []Table {
	var list []Table
	eachMessage(n.ProtoReflect(), func(m protoreflect.Message) bool {
		switch x := m.Interface().(type) {
		case *pg_query.RangeVar:
			list = append(list, table(x))
		case *pg_query.LockingClause:
			return false // names aliases
		case *pg_query.DropStmt:
			for _, object := range x.Objects {
				list = appendObject(list, x.RemoveType, object)
			}
		case *pg_query.CommentStmt:
			list = appendObject(list, x.Objtype, x.Object)
		case *pg_query.SecLabelStmt:
			list = appendObject(list, x.Objtype, x.Object)
		case *pg_query.AlterExtensionContentsStmt:
			list = appendObject(list, x.Objtype, x.Object)
		}
		return true
	})
	return list
}

// appendObject appends the relation of an object that is given as a list of names, if it is a relation or part of one.
func appendObject(list []Table, kind pg_query.ObjectType, object *pg_query.Node) []Table {
	path := names(object.GetList().GetItems())
	switch kind {
	case pg_query.ObjectType_OBJECT_TABLE, pg_query.ObjectType_OBJECT_VIEW, pg_query.ObjectType_OBJECT_MATVIEW, pg_query.ObjectType_OBJECT_INDEX,
		pg_query.ObjectType_OBJECT_SEQUENCE, pg_query.ObjectType_OBJECT_FOREIGN_TABLE:
	case pg_query.ObjectType_OBJECT_COLUMN, pg_query.ObjectType_OBJECT_TRIGGER, pg_query.ObjectType_OBJECT_RULE, pg_query.ObjectType_OBJECT_POLICY,
		pg_query.ObjectType_OBJECT_TABCONSTRAINT:
		if len(path) == 0 {
			return list
		}
		path = path[:len(path)-1]
	default:
		return list
	}
	n := len(path)
	if n == 0 {
		return list
	}
	t := Table{Name: path[n-1]}
	if n > 1 {
		t.Schema = path[n-2]
	}
	if n > 2 {
		t.Catalog = path[n-3]
	}
	return append(list, t)
}

// temporaryObject reports that a DDL statement names something in the session's own schema, or makes it there.
func temporaryObject(n *pg_query.Node) bool {
	found := false
	eachMessage(n.ProtoReflect(), func(m protoreflect.Message) bool {
		switch x := m.Interface().(type) {
		case *pg_query.RangeVar:
			found = found || x.Relpersistence == "t" || temporary(x.Schemaname)
		case *pg_query.String:
			found = found || temporary(x.Sval)
		}
		return !found
	})
	return found
}

// eachMessage calls f for m and, where f says so, for all messages below, in the order of their fields.
func eachMessage(m protoreflect.Message, f func(protoreflect.Message) bool) {
	if !f(m) {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Kind() != protoreflect.MessageKind || !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			eachMessage(m.Get(fd).Message(), f)
			continue
		}
		list := m.Get(fd).List()
		for j := range list.Len() {
			eachMessage(list.Get(j).Message(), f)
		}
	}
}
