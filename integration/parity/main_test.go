package parity

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }
