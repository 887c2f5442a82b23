package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// printer prints what became of orders, less the errors.
type printer func(out, notes io.Writer, all []outcome) error

// complain prints an error as PostgreSQL's tools do.
func complain(w io.Writer, name string, err error) {
	if name != "" {
		name = "tenant " + name
		if strings.HasPrefix(err.Error(), name+" ") {
			name = ""
		} else {
			name += ": "
		}
	}
	fmt.Fprintf(w, "pgkennel: %s%s\n", name, harmless(err.Error()))
	if e, ok := errors.AsType[*provision.Error](err); ok {
		if e.Detail != "" {
			fmt.Fprintf(w, "detail: %s\n", harmless(e.Detail))
		}
		if e.Hint != "" {
			fmt.Fprintf(w, "hint: %s\n", harmless(e.Hint))
		}
	}
}

// harmless is a text of who knows whom, such as a statement in a tenant's log, for a terminal: what that would take for orders is shown.
func harmless(s string) string {
	control := func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) || r == utf8.RuneError }
	if !strings.ContainsFunc(s, control) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\r' && i+1 < len(s) && s[i+1] == '\n', r == '\r' && i+1 == len(s):
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case control(r) && r != utf8.RuneError:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func printJSON(w io.Writer, all []outcome) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(merge(all))
}

// done says what was done, in the words of a verb; and when nothing had to be.
func done(words string) printer {
	return func(out, notes io.Writer, all []outcome) error {
		for _, x := range all {
			if x.err != nil {
				continue
			}
			r, name := x.result, x.order.Tenant
			if x.order.Verb == provision.VerbClone {
				name = x.order.Name
			}
			switch {
			case x.order.DryRun:
				for _, step := range r.Plan {
					fmt.Fprintln(out, step)
				}
			case r.Changed && x.order.Tenant != "":
				fmt.Fprintf(out, "%s: %s\n", name, words)
			case r.Changed:
				for _, v := range r.Tenants {
					fmt.Fprintf(out, "%s: %s, it is %s\n", v.Name, words, v.Phase)
				}
			case x.order.Tenant != "":
				fmt.Fprintf(out, "%s: nothing to do\n", name)
			default:
				fmt.Fprintln(out, "nothing to do")
			}
			if len(r.Secrets) > 0 {
				t := newTable(out, "login", "password")
				for _, s := range r.Secrets {
					t.row(s.Login, s.Password)
				}
				if err := t.flush(); err != nil {
					return err
				}
				fmt.Fprintln(notes, "note: a password is shown this once, and kept nowhere")
			}
			for _, n := range r.Notes {
				fmt.Fprintf(notes, "note: %s\n", n)
			}
		}
		return nil
	}
}

// table has fixed columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, head ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	for i := range head {
		head[i] = strings.ToUpper(head[i])
	}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		cells[i] = harmless(oneLine(strings.ReplaceAll(c, "\t", " ")))
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// views are the tenants of all results.
func views(all []outcome) []*provision.View { return merge(all).Tenants }

func failed(all []outcome) bool {
	return slices.ContainsFunc(all, func(x outcome) bool { return x.err != nil })
}

func printList(out, notes io.Writer, all []outcome) error {
	list := views(all)
	if len(list) == 0 && !failed(all) {
		_, err := fmt.Fprintln(notes, "there are no tenants")
		return err
	}
	if len(list) == 0 {
		return nil
	}
	t := newTable(out, "name", "state", "access", "isolation", "place", "version", "cpu", "memory", "disk", "io", "connections", "age")
	for _, v := range list {
		t.row(v.Name, stateText(v), accessText(v), v.Isolation, placeText(v), v.Version, cpuText(v.Limits.CPU), limited(usage(v).Memory, v.Limits.Memory),
			limited(usage(v).Disk, v.Limits.Disk), ioText(v.Limits.IO), count(v.Limits.Connections), ageText(v.Created))
	}
	return t.flush()
}

func usage(v *provision.View) provision.Usage {
	if v.Usage == nil {
		return provision.Usage{}
	}
	return *v.Usage
}

func stateText(v *provision.View) string {
	if v.Operation == nil && !v.Ends.Down.IsZero() {
		return v.Phase + " (down)"
	}
	if v.Operation != nil {
		return v.Phase + " (" + v.Operation.Verb + ")"
	}
	return v.Phase
}

func accessText(v *provision.View) string {
	a := &v.Access
	switch {
	case !a.Enabled:
		return "off"
	case a.Full:
		return "read only (disk full)"
	case a.ReadOnly:
		return "read only"
	case len(a.Networks) == 1:
		return a.Networks[0].String()
	case len(a.Networks) > 1 && !slices.Equal(a.Networks, anywhere):
		return fmt.Sprintf("%d networks", len(a.Networks))
	}
	return "on"
}

func placeText(v *provision.View) string {
	switch {
	case v.Driver != "" && v.Host != "":
		return v.Driver + "@" + v.Host
	case v.Driver != "":
		return v.Driver
	case v.Cluster != "" && v.Shard != nil && *v.Shard >= 0:
		return fmt.Sprintf("%s/%d", v.Cluster, *v.Shard)
	}
	return v.Cluster
}

// limited is what is used of what may be.
func limited(used, limit int64) string {
	switch {
	case used == 0 && limit == 0:
		return ""
	case limit == 0:
		return bytesText(used)
	case used == 0:
		return "of " + bytesText(limit)
	}
	return bytesText(used) + " of " + bytesText(limit)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func cpuText(thousandths int) string {
	if thousandths == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(thousandths)/1000, 'g', -1, 64)
}

func ioText(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return bytesText(bytes) + "/s"
}

// bytesText is a size with at most three digits, in the units that are read as well.
func bytesText(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, unit := float64(n)/(1<<10), "kB"
	for _, u := range []string{"MB", "GB", "TB"} {
		if f < 1<<10 {
			break
		}
		f, unit = f/(1<<10), u
	}
	if f < 9.95 && f != float64(int(f)) {
		return fmt.Sprintf("%.1f%s", f, unit)
	}
	return fmt.Sprintf("%.0f%s", f, unit)
}

// ageText is how long ago something was, in its largest unit.
func ageText(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return spanText(time.Since(at))
}

func spanText(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func printShow(out, _ io.Writer, all []outcome) error {
	for i, v := range views(all) {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := showOne(out, v); err != nil {
			return err
		}
	}
	return nil
}

func showOne(out io.Writer, v *provision.View) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, harmless(oneLine(strings.ReplaceAll(value, "\t", " "))))
		}
	}
	line("name", v.Name)
	line("id", v.ID)
	line("state", v.Phase)
	line("reason", v.Reason)
	ends := func(indent string, e *tenant.Ends) {
		if e.Count == 0 && e.OOMKills == 0 && e.Crashes == 0 {
			return
		}
		line(indent+"ended by itself", endsText(e))
		if !e.Down.IsZero() {
			line(indent+"down since", fmt.Sprintf("%s; it is started again, with a growing pause between tries", timeText(e.Down)))
		}
	}
	ends("", &v.Ends)
	if o := v.Operation; o != nil {
		text := o.Verb + ", at " + o.Step
		if o.Undoing {
			text += ", being undone"
		}
		if o.Error != "" {
			text += ": " + o.Error
		}
		line("operation", fmt.Sprintf("%s (by %s, for %s)", text, o.By, ageText(o.Started)))
	}
	line("access", accessText(v))
	for _, n := range v.Access.Networks {
		line("  from", n.String())
	}
	line("isolation", strings.TrimSuffix(v.Isolation+", "+v.Mode, ", "))
	line("key", v.Key)
	line("place", placeText(v))
	if v.Isolation == tenant.Instance.String() {
		line("clients of", v.Cluster)
	}
	if v.Endpoint.Host != "" || v.Endpoint.Port != 0 {
		line("endpoint", fmt.Sprintf("%s:%d", v.Endpoint.Host, v.Endpoint.Port))
	}
	if v.Endpoint.Remote != "" {
		line("for other hosts", net.JoinHostPort(v.Endpoint.Remote, strconv.Itoa(v.Endpoint.Port)))
	}
	line("database", v.Database)
	line("schema", v.Schema)
	line("role", v.Role)
	line("version", v.Version)
	u := usage(v)
	line("cpu", cpuText(v.Limits.CPU))
	line("memory", limited(u.Memory, v.Limits.Memory))
	line("disk", limited(u.Disk, v.Limits.Disk))
	line("io", ioText(v.Limits.IO))
	line("connections", count(v.Limits.Connections))
	if u.Processes > 0 {
		line("processes", fmt.Sprintf("%d, %s of CPU time", u.Processes, u.CPU.Round(10*time.Millisecond)))
	}
	for _, k := range slices.Sorted(maps.Keys(v.Settings)) {
		line("setting", k+" = "+v.Settings[k])
	}
	line("extensions", strings.Join(v.Extensions, ", "))
	line("template", v.Origin.Template)
	if v.SuspendAfter > 0 {
		line("suspend after", v.SuspendAfter.String())
	}
	line("backups", backupsText(v.Backups))
	for _, l := range v.Logins {
		line("login", l.Name+loginText(l))
	}
	for _, r := range v.Replicas {
		line("replica", fmt.Sprintf("%s, %s@%s, %s:%d", r.ID, r.Driver, r.Host, r.Endpoint.Host, r.Endpoint.Port))
		ends("  ", &r.Ends)
	}
	for _, k := range slices.Sorted(maps.Keys(v.Stats)) {
		line(strings.ReplaceAll(k, "_", " "), strconv.FormatInt(v.Stats[k], 10))
	}
	line("created", timeText(v.Created))
	line("changed", timeText(v.Updated))
	line("forgotten at", timeText(v.Forget))
	return w.Flush()
}

func endsText(e *tenant.Ends) string {
	text := fmt.Sprintf("%d times", e.Count)
	if e.OOMKills > 0 {
		text += fmt.Sprintf(", %d processes for want of memory", e.OOMKills)
	}
	if e.Crashes > 0 {
		text += fmt.Sprintf(", %d processes by a crash", e.Crashes)
	}
	return fmt.Sprintf("%s; last at %s, %s", text, timeText(e.Last), e.Reason)
}

func backupsText(b tenant.Backups) string {
	var parts []string
	if b.Every > 0 {
		parts = append(parts, "every "+spanText(b.Every))
	}
	if b.Keep > 0 {
		parts = append(parts, fmt.Sprintf("%d kept", b.Keep))
	}
	if b.Archive {
		parts = append(parts, "WAL archived")
	}
	return strings.Join(parts, ", ")
}

func loginText(l provision.LoginView) string {
	var parts []string
	for _, x := range []struct {
		is   bool
		text string
	}{{l.Superuser, "superuser"}, {l.ReadOnly, "reads only"}, {l.Disabled, "disabled"}} {
		if x.is {
			parts = append(parts, x.text)
		}
	}
	if l.Connections > 0 {
		parts = append(parts, fmt.Sprintf("%d connections", l.Connections))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func printStats(out, notes io.Writer, all []outcome) error {
	list := views(all)
	if len(list) == 0 {
		return nil
	}
	keys := map[string]bool{}
	for _, v := range list {
		for k := range v.Stats {
			keys[k] = true
		}
	}
	columns := slices.Sorted(maps.Keys(keys))
	head := []string{"name", "state", "memory", "disk", "cpu time", "processes", "ended", "oom kills"}
	for _, k := range columns {
		head = append(head, strings.ReplaceAll(k, "_", " "))
	}
	t := newTable(out, head...)
	for _, v := range list {
		u := usage(v)
		spent := ""
		if u.CPU > 0 {
			spent = u.CPU.Round(10 * time.Millisecond).String()
		}
		row := []string{v.Name, stateText(v), limited(u.Memory, v.Limits.Memory), limited(u.Disk, v.Limits.Disk), spent, count(u.Processes), count(v.Ends.Count), count(int(v.Ends.OOMKills))}
		for _, k := range columns {
			text := ""
			if n, ok := v.Stats[k]; ok {
				text = strconv.FormatInt(n, 10)
			}
			row = append(row, text)
		}
		t.row(row...)
	}
	return t.flush()
}

func printBackups(out, notes io.Writer, all []outcome) error {
	list := merge(all).Backups
	if len(list) == 0 {
		if !failed(all) {
			fmt.Fprintln(notes, "there are no backups")
		}
		return nil
	}
	t := newTable(out, "id", "kind", "made", "took", "size", "version", "verified", "restores to", "note")
	for _, b := range list {
		span := ""
		if !b.From.IsZero() {
			span = timeText(b.From) + " – " + timeText(b.Until)
		}
		t.row(b.ID, b.Kind, timeText(b.Finished), b.Finished.Sub(b.Started).Round(100*time.Millisecond).String(), bytesText(b.Bytes), b.Version, timeText(b.Verified), span, b.Note)
	}
	return t.flush()
}

func printAudit(out, notes io.Writer, all []outcome) error {
	list := merge(all).Audit
	if len(list) == 0 {
		if !failed(all) {
			fmt.Fprintln(notes, "nothing was done yet")
		}
		return nil
	}
	t := newTable(out, "time", "who", "tenant", "what", "detail")
	for _, e := range list {
		t.row(timeText(e.Time), e.Who, e.Name, e.What, e.Detail)
	}
	return t.flush()
}

// backedUp prints the backups that were made.
func backedUp(out, notes io.Writer, all []outcome) error {
	for _, x := range all {
		if x.err != nil {
			continue
		}
		for _, b := range x.result.Backups {
			fmt.Fprintf(out, "%s: backup %s, %s, %s\n", x.order.Tenant, b.ID, b.Kind, bytesText(b.Bytes))
		}
	}
	return printNothing(out, notes, all)
}

func printNothing(_, notes io.Writer, all []outcome) error {
	for _, n := range merge(all).Notes {
		fmt.Fprintf(notes, "note: %s\n", n)
	}
	return nil
}

func printLogins(out, notes io.Writer, all []outcome) error {
	t := newTable(out, "tenant", "login", "may")
	for _, v := range views(all) {
		for _, l := range v.Logins {
			t.row(v.Name, l.Name, strings.Trim(loginText(l), " ()"))
		}
	}
	return t.flush()
}

func printReplicas(out, notes io.Writer, all []outcome) error {
	t := newTable(out, "tenant", "replica", "driver", "host", "endpoint")
	for _, v := range views(all) {
		for _, r := range v.Replicas {
			t.row(v.Name, r.ID, r.Driver, r.Host, fmt.Sprintf("%s:%d", r.Endpoint.Host, r.Endpoint.Port))
		}
	}
	return t.flush()
}
