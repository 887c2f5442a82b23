package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

// ClientOptions say where the API is: a socket, or a URL with a token.
type ClientOptions struct {
	Socket string // path of a unix socket
	URL    string // such as https://pgkennel.example.com:9091
	Token  string
	CAFile string // whom to believe certificates; empty = whom the system does
}

// Client gives orders to a process that serves the API. It is a provision.Executor, and safe for concurrent use.
type Client struct {
	http  *http.Client
	base  string
	token string
}

var _ provision.Executor = (*Client)(nil)

// NewClient makes a Client; nothing is connected yet.
func NewClient(o ClientOptions) (*Client, error) {
	t := &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	c := &Client{
		http: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for nobody else
		},
		base: strings.TrimSuffix(o.URL, "/"), token: o.Token,
	}
	if o.Socket != "" {
		c.base = "http://pgkennel"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", o.Socket)
		}
		return c, nil
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, provision.Errorf(provision.KindInvalid, "the URL of the API is to be as https://host:port")
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, provision.Errorf(provision.KindInvalid, "the URL of the API has to begin with https, for the token would be there to read; only to this machine itself it need not")
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, provision.Errorf(provision.KindInvalid, "%s has no certificate", o.CAFile)
		}
	}
	return c, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ping finds out whether somebody serves the API there.
func (c *Client) Ping(ctx context.Context) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/version", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return strange(resp)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body)) //nolint:gosec // it is the operator who says where the API is
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", typeLines)
	if body != nil {
		req.Header.Set("Content-Type", typeJSON)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req) //nolint:gosec // as above
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // its path is nobody's business
	}
	return resp, err
}

// Execute implements provision.Executor.
func (c *Client) Execute(ctx context.Context, o provision.Order, report func(provision.Progress)) (*provision.Result, error) {
	body, err := json.Marshal(o) //nolint:gosec // a password that is ordered has to get there
	if err != nil {
		return nil, err
	}
	path := "/v1/" + url.PathEscape(o.Verb)
	switch {
	case o.Verb == provision.VerbCreate:
		path = "/v1/tenants"
	case o.Tenant == "." || o.Tenant == "..": // these are no path
		return nil, provision.Errorf(provision.KindNotFound, "there is no tenant %q", o.Tenant)
	case o.Tenant != "":
		path = "/v1/tenants/" + url.PathEscape(o.Tenant) + "/" + url.PathEscape(o.Verb)
	}
	resp, err := c.send(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != typeJSON && t != typeLines {
		return nil, strange(resp)
	}
	for d := json.NewDecoder(resp.Body); ; {
		var m message
		err := d.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil, provision.Errorf(provision.KindFailed, "the answer ended before the order did").
				WithHint("what was begun goes on: look with pgkennel tenant show")
		case err != nil:
			return nil, unreachable(ctx, err)
		case m.Error != nil:
			return nil, m.Error
		case m.Result != nil:
			return m.Result, nil
		case m.Progress != nil && report != nil:
			report(*m.Progress)
		}
	}
}

func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w; what was begun goes on", ctx.Err())
	}
	return provision.Errorf(provision.KindFailed, "the API can't be reached: %v", err)
}

// strange is an answer that is not the API's: of a server before it that wants a token, or of another program.
func strange(resp *http.Response) error {
	e := provision.Errorf(provision.KindFailed, "the API answered %s", resp.Status)
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		e = e.WithHint("--token-file has the token that the pooler's [admin] section names")
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // what can't be read is not said
	if line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n"); line != "" {
		e = e.WithDetail("%s", line)
	}
	return e
}
