package admin

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// parameters are PostgreSQL's run-time parameters that SHOW answers and SET takes, with their value; what clients ask for when
// they connect. They describe how the console talks, and nothing changes them.
var parameters = map[string]string{
	"application_name":                    "",
	"bytea_output":                        "hex",
	"client_encoding":                     "UTF8",
	"client_min_messages":                 "notice",
	"datestyle":                           "ISO, MDY",
	"default_transaction_isolation":       "read committed",
	"default_transaction_read_only":       "off",
	"extra_float_digits":                  "1",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"in_hot_standby":                      "off",
	"integer_datetimes":                   "on",
	"intervalstyle":                       "postgres",
	"is_superuser":                        "off",
	"jit":                                 "off",
	"lc_messages":                         "C",
	"lock_timeout":                        "0",
	"max_identifier_length":               "63",
	"search_path":                         "",
	"server_encoding":                     "UTF8",
	"server_version":                      "", // Inspector.Version's
	"server_version_num":                  "",
	"session_authorization":               "", // the user
	"standard_conforming_strings":         "on",
	"statement_timeout":                   "0",
	"synchronous_commit":                  "on",
	"timezone":                            "UTC",
	"transaction_isolation":               "read committed",
	"transaction_read_only":               "off",
	"transaction_timeout":                 "0",
}

// fixed are those that SET refuses, as PostgreSQL does.
var fixed = []string{
	"in_hot_standby", "integer_datetimes", "is_superuser", "max_identifier_length", "server_encoding", "server_version",
	"server_version_num", "session_authorization",
}

// parameterTitle is the column of SHOW, which PostgreSQL spells its own way for three of them.
func parameterTitle(name string) string {
	switch name {
	case "datestyle":
		return "DateStyle"
	case "intervalstyle":
		return "IntervalStyle"
	case "timezone":
		return "TimeZone"
	}
	return name
}

func (c *Console) parameter(name string, u User) string {
	switch name {
	case "session_authorization":
		return u.Name
	case "server_version":
		return c.Inspector.Version().Server
	case "server_version_num":
		return strconv.Itoa(c.Inspector.Version().ServerNum)
	}
	return parameters[name]
}

// set takes SET and RESET, which change nothing. Names that mean nothing here are errors, so that nobody believes to have
// changed the configuration.
func (c *Console) set(s *Statement, k *command) *pgwire.Error {
	_, known := parameters[k.name]
	switch {
	case k.tag == "RESET" && (known || k.name == "all"), k.name == "transaction":
		return nil
	case slices.Contains(fixed, k.name):
		return pgwire.Errorf(pgwire.CodeCantChangeRuntimeParam, `parameter "%s" cannot be changed`, k.name)
	case k.name == "client_encoding":
		return encoding(k.values)
	case known:
		s.Notices = append(s.Notices, noEffect(k.name))
		return nil
	}
	for _, item := range c.Inspector.Config() {
		if item.Key == k.name || strings.HasSuffix(item.Key, "."+k.name) {
			return pgwire.Errorf(pgwire.CodeCantChangeRuntimeParam, `parameter "%s" cannot be changed now`, k.name).
				WithHint("Change the configuration file and run RELOAD.")
		}
	}
	if strings.Contains(k.name, ".") { // an extension's, which PostgreSQL takes unseen too
		s.Notices = append(s.Notices, noEffect(k.name))
		return nil
	}
	return pgwire.Errorf(pgwire.CodeUndefinedObject, `unrecognized configuration parameter "%s"`, shorten(k.name))
}

func noEffect(name string) *pgwire.Error {
	return pgwire.Noticef(`parameter "%s" has no effect on the admin console`, shorten(name))
}

// encoding refuses encodings that the console's answers would not be in.
func encoding(values []string) *pgwire.Error {
	if len(values) == 0 {
		return nil
	}
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(values[0])) {
	case "utf8", "unicode", "sqlascii", "default":
		return nil
	}
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the admin console speaks UTF8 only")
}
