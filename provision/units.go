package provision

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// units of sizes, as PostgreSQL has them: powers of 1024.
var units = map[string]int64{
	"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
	"g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40,
}

// split cuts a number from its unit.
func split(s string) (number float64, unit string, ok bool) {
	s = strings.TrimSpace(s)
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, err := strconv.ParseFloat(s[:end], 64)
	return number, strings.ToLower(strings.TrimSpace(s[end:])), err == nil && number >= 0 && !math.IsInf(number, 0)
}

// ParseSize reads a number of bytes, such as 256MB.
func ParseSize(s string) (int64, error) {
	n, unit, ok := split(s)
	factor, known := units[unit]
	if bytes := n * float64(factor); ok && known && bytes < 1<<62 {
		return int64(math.Round(bytes)), nil
	}
	return 0, fmt.Errorf("%s is no size such as 256MB or 1.5GB", strconv.Quote(s))
}

// ParseCPU reads a number of cores, such as 0.5 or 500m, and returns thousandths.
func ParseCPU(s string) (int, error) {
	n, unit, ok := split(s)
	switch unit {
	case "":
		n *= 1000
	case "m":
	default:
		ok = false
	}
	if rounded := math.Round(n); ok && n < 1<<30 && (rounded > 0 || n == 0) {
		return int(rounded), nil
	}
	return 0, fmt.Errorf("%s is no number of cores such as 0.5 or 2", strconv.Quote(s))
}

const day = 24 * time.Hour

// ParseDuration reads a time such as 90s, 10m, 12h or 7d.
func ParseDuration(s string) (time.Duration, error) {
	if n, unit, ok := split(s); ok && unit == "d" && n < 1e5 {
		return time.Duration(n * float64(day)), nil
	}
	if d, err := time.ParseDuration(strings.TrimSpace(s)); err == nil && d >= 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%s is no time such as 90s, 10m, 12h or 7d", strconv.Quote(s))
}
