package parser

import (
	"slices"
	"sync/atomic"
)

// NamedBy is m, whose one statement has Named settings, with their names. It is nil where a value gives none.
func (m *Message) NamedBy(value func(param int) (name string, ok bool)) *Message {
	x := *m.Statements[0]
	x.Verdict = new(atomic.Pointer[any])
	x.Effects &^= EffNamed
	x.SetConfigs, x.Unseen, x.Named = slices.Clone(x.SetConfigs), slices.Clone(x.Unseen), nil
	u := unit{s: &x}
	for _, n := range m.Statements[0].Named {
		name, ok := value(n.Param)
		switch name = settingName(name); {
		case !ok, name == "seed": // which is no value that comes back
			return nil
		case n.Local:
			x.Effects |= EffSetConfig
			x.SetConfigs = append(x.SetConfigs, Setting{Name: name, Local: true, Unknown: true})
		default:
			u.unseen(name)
		}
	}
	return &Message{Statements: []*Statement{&x}, Hints: m.Hints, Transcoded: m.Transcoded, Shaped: m.Shaped, Size: m.Size}
}
