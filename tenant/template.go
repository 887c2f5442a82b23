package tenant

import (
	"fmt"
	"strings"
)

// Template is a text with {tenant} (its name), {key} and {id} in it.
type Template string

// Check says what is wrong with a template, nil if nothing.
func (t Template) Check() error {
	_, err := t.expand(func(string) (string, bool) { return "x", true })
	return err
}

// Expand fills in a tenant's values. It fails where the template wants a value that the tenant does not have.
func (t Template) Expand(name, key, id string) (string, error) {
	return t.expand(func(field string) (string, bool) {
		switch field {
		case "tenant":
			return name, name != ""
		case "key":
			return key, key != ""
		default:
			return id, id != ""
		}
	})
}

// ByKey reports whether the template needs no more of a tenant than its key.
func (t Template) ByKey() bool {
	_, err := t.Expand("", "x", "")
	return err == nil
}

// Distinct reports whether different tenants have different expansions, as far as that shows: there is something of the tenant in it.
func (t Template) Distinct() bool { return strings.Contains(string(t), "{") }

// matches reports whether s may be an expansion. What has nothing around its field matches nothing: it would match everything.
func (t Template) matches(s string) bool {
	before, rest, found := strings.Cut(string(t), "{")
	i := strings.LastIndexByte(rest, '}')
	if !found || i < 0 || before == "" && i == len(rest)-1 {
		return false
	}
	after := rest[i+1:]
	return len(s) > len(before)+len(after) && strings.HasPrefix(s, before) && strings.HasSuffix(s, after)
}

func (t Template) expand(value func(string) (string, bool)) (string, error) {
	var out strings.Builder
	for rest := string(t); rest != ""; {
		before, after, found := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return "", fmt.Errorf("template %q has a } without its {", string(t))
		}
		out.WriteString(before)
		if !found {
			break
		}
		field, tail, closed := strings.Cut(after, "}")
		if !closed {
			return "", fmt.Errorf("template %q has a { without its }", string(t))
		}
		if field != "tenant" && field != "key" && field != "id" {
			return "", fmt.Errorf("template %q has {%s}; it can have {tenant}, {key} and {id}", string(t), field)
		}
		v, ok := value(field)
		if !ok {
			return "", fmt.Errorf("template %q wants {%s}, which the tenant does not have", string(t), field)
		}
		out.WriteString(v)
		rest = tail
	}
	return out.String(), nil
}
