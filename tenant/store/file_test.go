package store

const putterVariable = "PGKENNEL_TEST_PUTTER"

func putter(dir string) {}
