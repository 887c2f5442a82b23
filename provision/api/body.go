package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// body is an order as it is sent: where an Order has nanoseconds, bytes and thousandths, text with a unit does as well.
type body struct {
	provision.Order

	Limits       *limits   `json:"limits"`
	SuspendAfter *duration `json:"suspend_after"`
	Every        *duration `json:"backup_every"`
}

type limits struct {
	CPU         cpu  `json:"cpu"`
	Memory      size `json:"memory"`
	Disk        size `json:"disk"`
	IO          size `json:"io"`
	Connections int  `json:"connections"`
}

type (
	duration time.Duration
	size     int64
	cpu      int
)

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(b []byte) error {
	return number(b, (*time.Duration)(d), provision.ParseDuration)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *size) UnmarshalJSON(b []byte) error { return number(b, (*int64)(s), provision.ParseSize) }

// UnmarshalJSON implements json.Unmarshaler.
func (c *cpu) UnmarshalJSON(b []byte) error { return number(b, (*int)(c), provision.ParseCPU) }

// number reads a number as it is, and text with its unit.
func number[T any](b []byte, to *T, parse func(string) (T, error)) (err error) {
	if len(b) == 0 || b[0] != '"' {
		return json.Unmarshal(b, to)
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	*to, err = parse(text)
	return err
}

// fromBody reads an order from a request's body, which may be empty.
func fromBody(w http.ResponseWriter, r *http.Request) (provision.Order, error) {
	var b body
	if kind := r.Header.Get("Content-Type"); kind != "" {
		// curl -d says that it sends a form, and its users mean JSON. What a page in a browser sends without asking is refused with it: no form has a token.
		if t, _, err := mime.ParseMediaType(kind); err != nil || t != typeJSON && t != "application/x-www-form-urlencoded" {
			return b.Order, provision.Errorf(provision.KindInvalid, "the body is to be %s, and not %s", typeJSON, strconv.Quote(kind))
		}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(&b)
	if errors.Is(err, io.EOF) {
		return b.Order, nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return b.order(), nil
		}
		if err == nil {
			err = errors.New("something follows the order")
		}
	}
	if errors.Is(err, errSlow) {
		return b.Order, tooSlow()
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return b.Order, provision.Errorf(provision.KindInvalid, "the body has more than %d bytes", maxBody)
	}
	return b.Order, provision.Errorf(provision.KindInvalid, "the body is no order: %s", strings.TrimPrefix(err.Error(), "json: "))
}

func tooSlow() error {
	return provision.Errorf(provision.KindInvalid, "the body did not come in time").
		WithHint("at least %d kB a second have to, after the first %s", bodyRate>>10, bodyGrace)
}

func (b *body) order() provision.Order {
	o := b.Order
	if l := b.Limits; l != nil {
		o.Limits = &tenant.Limits{CPU: int(l.CPU), Memory: int64(l.Memory), Disk: int64(l.Disk), IO: int64(l.IO), Connections: l.Connections}
	}
	o.SuspendAfter, o.Every = (*time.Duration)(b.SuspendAfter), (*time.Duration)(b.Every)
	return o
}

// fromQuery reads those fields of an order that a URL's query may have.
func fromQuery(r *http.Request, o *provision.Order) error {
	for name, values := range r.URL.Query() {
		if len(values) != 1 {
			return provision.Errorf(provision.KindInvalid, "%s is given %d times", strconv.Quote(name), len(values))
		}
		var err error
		switch v := values[0]; name {
		case "now":
			o.Now, err = flag(v)
		case "removed":
			o.Removed, err = flag(v)
		case "follow":
			o.Follow, err = flag(v)
		case "force":
			o.Force, err = flag(v)
		case "lines":
			o.Lines, err = strconv.Atoi(v)
		case "limit":
			o.Limit, err = strconv.Atoi(v)
		default:
			return provision.Errorf(provision.KindInvalid, "there is no parameter %s", strconv.Quote(name))
		}
		if err != nil {
			return provision.Errorf(provision.KindInvalid, "%s can't be %s", name, strconv.Quote(values[0]))
		}
	}
	return nil
}

// flag reads a yes or no; ?now alone is a yes.
func flag(v string) (bool, error) {
	if v == "" {
		return true, nil
	}
	return strconv.ParseBool(v)
}
