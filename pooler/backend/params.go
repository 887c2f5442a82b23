package backend

// Params are the values that a server reported by ParameterStatus, in the order of their first report. There are about fifteen.
type Params struct {
	names, values []string
	// version counts changes.
	version uint64
	bytes   int // of names and values
}

// What a server may report: PostgreSQL 18 has fifteen parameters, of which search_path may be long.
const (
	maxParams     = 256
	maxParamBytes = 1 << 20
)

func (p *Params) set(name, value string) {
	for i, n := range p.names {
		if n == name {
			if p.values[i] != value {
				p.bytes += len(value) - len(p.values[i])
				p.values[i] = value
				p.version++
			}
			return
		}
	}
	p.names = append(p.names, name)
	p.values = append(p.values, value)
	p.bytes += len(name) + len(value)
	p.version++
}

// intern sets a parameter and returns both strings as they are kept; ok is false if that is more than a server may report.
func (p *Params) intern(name, value []byte) (n, v string, ok bool) {
	for i, n := range p.names {
		if n == string(name) {
			if p.values[i] != string(value) {
				if p.bytes += len(value) - len(p.values[i]); p.bytes > maxParamBytes {
					return "", "", false
				}
				p.values[i] = string(value)
				p.version++
			}
			return n, p.values[i], true
		}
	}
	if len(p.names) >= maxParams || p.bytes+len(name)+len(value) > maxParamBytes {
		return "", "", false
	}
	p.set(string(name), string(value))
	return p.names[len(p.names)-1], p.values[len(p.values)-1], true
}

// Get returns a parameter's value.
func (p *Params) Get(name string) (string, bool) {
	for i, n := range p.names {
		if n == name {
			return p.values[i], true
		}
	}
	return "", false
}

// All calls f for each parameter.
func (p *Params) All(f func(name, value string)) {
	for i, n := range p.names {
		f(n, p.values[i])
	}
}

// Version changes whenever a value does.
func (p *Params) Version() uint64 { return p.version }
