package loop

import (
	"strings"
	"testing"
)

// testPollers starts one thread, which has a ring for tests of TestRing.
func testPollers(t *testing.T, buffer int) (*pollers, error) {
	t.Helper()
	if strings.HasPrefix(t.Name(), "TestRing/") {
		return newRingPollers(1, buffer)
	}
	return newPollers(1, buffer)
}

// TestRing has the tests of pollers run on one with a ring.
func TestRing(t *testing.T) {
	t.Parallel()
	if _, err := newRingPollers(0, 0); err != nil {
		t.Skip(err)
	}
	for name, f := range map[string]func(*testing.T){
		"PollersEnd":                       TestPollersEnd,
		"WhoDoesNotReadIsNotRead":          TestWhoDoesNotReadIsNotRead,
		"SlowServerHoldsItsClient":         TestSlowServerHoldsItsClient,
		"SlowClientLetsGo":                 TestSlowClientLetsGo,
		"LateSettleTimer":                  TestLateSettleTimer,
		"WhoWaitsForRoomHearsOfTheEnd":     TestWhoWaitsForRoomHearsOfTheEnd,
		"TerminateCompletesNothing":        TestTerminateCompletesNothing,
		"DeadBackendIsDroppedAfterTheStep": TestDeadBackendIsDroppedAfterTheStep,
		"BugsEndOneConnection":             TestBugsEndOneConnection,
	} {
		t.Run(name, f)
	}
}
