package pooler

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Tenant implements admin.Tenants.
func (c controller) Tenant(ctx context.Context, o admin.TenantOrder) (admin.TenantAnswer, error) {
	f := c.p.follower
	if f == nil || f.orders == nil {
		return admin.TenantAnswer{}, pgwire.Errorf(pgwire.CodeFeatureNotSupported, "there is no directory of tenants").
			WithHint("A section [directory] in pgdog.toml makes one.")
	}
	order := provision.Order{Verb: o.Verb, Tenant: o.Name, By: o.By}
	if order.Verb == provision.VerbBackup && len(o.Options) == 0 {
		order.Kind = provision.Logical
	}
	for _, x := range o.Options {
		if err := setOption(&order, x.Name, x.Value); err != nil {
			return admin.TenantAnswer{}, pgwire.Errorf(pgwire.CodeInvalidParameterValue, "%s: %s", x.Name, err)
		}
	}
	var answer admin.TenantAnswer
	res, err := f.orders.Execute(ctx, order, nil)
	if err != nil {
		return answer, orderError(err)
	}
	for _, s := range res.Secrets {
		answer.Secrets = append(answer.Secrets, admin.TenantSecret{Login: s.Login, Password: s.Password})
	}
	answer.Notes = res.Notes
	return answer, nil
}

// orderCodes are the SQLSTATEs of failed orders.
var orderCodes = map[provision.ErrorKind]string{
	provision.KindInvalid: pgwire.CodeInvalidParameterValue, provision.KindNotFound: pgwire.CodeUndefinedObject, provision.KindTaken: pgwire.CodeDuplicateObject,
	provision.KindState: pgwire.CodeObjectNotInPrerequisiteState, provision.KindBusy: pgwire.CodeObjectInUse, provision.KindRefused: pgwire.CodeInsufficientResources,
	provision.KindFailed: pgwire.CodeInternalError,
}

func orderError(err error) error {
	e, ok := errors.AsType[*provision.Error](err)
	if !ok {
		return err
	}
	code := orderCodes[e.Kind]
	if code == "" {
		code = pgwire.CodeInternalError
	}
	out := pgwire.Errorf(code, "%s", e.Message)
	if e.Detail != "" {
		out = out.WithDetail("%s", e.Detail)
	}
	if e.Hint != "" {
		out = out.WithHint("%s", e.Hint)
	}
	return out
}

// setOption puts an option of the console's into an order.
func setOption(o *provision.Order, name, value string) (err error) {
	limits := func() *tenant.Limits {
		if o.Limits == nil {
			o.Limits = &tenant.Limits{}
		}
		if o.Verb == provision.VerbSet {
			o.LimitsOnly = append(o.LimitsOnly, name)
		}
		return o.Limits
	}
	switch name {
	case "isolation":
		o.Isolation = value
	case "mode":
		o.Mode = value
	case "key":
		o.Key = value
	case "database":
		o.Cluster = value
	case "shard":
		n, bad := strconv.Atoi(value)
		o.Shard, err = &n, bad
	case "driver":
		o.Driver = value
	case "host":
		o.Host = value
	case "version":
		o.Version = value
	case "template":
		o.Template = value
	case "extension":
		o.Extensions = append(o.Extensions, value)
	case "cpu":
		limits().CPU, err = provision.ParseCPU(value)
	case "memory":
		limits().Memory, err = provision.ParseSize(value)
	case "disk":
		limits().Disk, err = provision.ParseSize(value)
	case "io":
		limits().IO, err = provision.ParseSize(value)
	case "connections":
		limits().Connections, err = strconv.Atoi(value)
	case "config":
		key, v, ok := strings.Cut(value, "=")
		if !ok {
			return errors.New("it is 'name=value'")
		}
		if o.Settings == nil {
			o.Settings = make(map[string]string)
		}
		o.Settings[strings.TrimSpace(key)] = strings.TrimSpace(v)
	case "password":
		o.Password = value
	case "suspend_after":
		d, bad := provision.ParseDuration(value)
		o.SuspendAfter, err = &d, bad
	case "backup_every":
		d, bad := provision.ParseDuration(value)
		o.Every, err = &d, bad
	case "backup_keep":
		n, bad := strconv.Atoi(value)
		o.Keep, err = &n, bad
	case "archive":
		on := true
		o.Archive = &on
	case "superuser":
		o.Superuser = true
	case "enable":
		o.Enable = true
	case "now":
		o.Now = true
	case "force":
		o.Force = true
	case "name":
		o.Name = value
	case "kind":
		o.Kind = value
	case "on":
		on := value == "true"
		o.On = &on
	case "cidr":
		for part := range strings.SplitSeq(value, ",") {
			p, bad := netip.ParsePrefix(strings.TrimSpace(part))
			if bad != nil {
				return errors.New("it is a list of networks, such as '10.0.0.0/8, ::1/128'")
			}
			o.Networks = append(o.Networks, p)
		}
	default:
		return errors.New("there is no such option")
	}
	if _, ok := errors.AsType[*strconv.NumError](err); ok {
		return errors.New("it is a whole number")
	}
	return err
}
