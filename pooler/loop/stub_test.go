package loop

import (
	"testing"

	"github.com/pgkennel/pgkennel/sharding/router"
)

func modelRouter(_ *testing.T, n int) *router.Router { return &router.Router{N: n} }
