package metrics

// classes are SQLSTATE's classes as PostgreSQL's errcodes.txt has them. Extensions may make up more: those are "other".
var classes = [...]string{
	"other",
	"00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "26",
	"27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58", "72",
	"F0", "HV", "P0", "XX",
}

// classIndex maps both characters of a class to its place in classes; 0 = other.
var classIndex = func() (index [1 << 16]uint8) {
	for i, c := range classes[1:] {
		index[int(c[0])<<8|int(c[1])] = uint8(i + 1)
	}
	return index
}()

// Errors counts errors by SQLSTATE class. Its zero value is ready to use.
type Errors struct{ n [len(classes)]Counter }

// Inc counts an error by its SQLSTATE, whose text may be anything.
func (e *Errors) Inc(sqlstate string) {
	var i uint8
	if len(sqlstate) == 5 {
		i = classIndex[int(sqlstate[0])<<8|int(sqlstate[1])]
	}
	e.n[i].Inc()
}

// Total returns the number of errors of all classes.
func (e *Errors) Total() uint64 {
	var sum uint64
	for i := range e.n {
		sum += e.n[i].Load()
	}
	return sum
}

// each calls f for every class that was seen.
func (e *Errors) each(f func(class string, n uint64)) {
	for i := range e.n {
		if n := e.n[i].Load(); n > 0 {
			f(classes[i], n)
		}
	}
}
