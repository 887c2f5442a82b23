// Package gormsuite goes through what GORM can do, with and without prepared statements.
package gormsuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

type Author struct {
	gorm.Model
	Name  string `gorm:"uniqueIndex;not null"`
	Age   int
	Books []Book
	Tags  []Tag `gorm:"many2many:author_tags"`
}

type Book struct {
	ID       uint
	AuthorID uint
	Title    string
	Price    float64 `gorm:"type:numeric(10,2)"`
	Made     time.Time
}

type Tag struct {
	ID   uint
	Name string
}

func each(t *testing.T, f func(t *testing.T, db *gorm.DB)) {
	t.Helper()
	for _, way := range []struct {
		name   string
		config gorm.Config
		simple bool
	}{{"as it is", gorm.Config{}, false}, {"prepared", gorm.Config{PrepareStmt: true}, false}, {"simple protocol", gorm.Config{}, true}, {"no default transaction", gorm.Config{SkipDefaultTransaction: true}, false}} {
		t.Run(way.name, func(t *testing.T) {
			way.config.Logger = logger.Discard
			way.config.TranslateError = true
			db, err := gorm.Open(postgres.New(postgres.Config{DSN: os.Getenv("URL"), PreferSimpleProtocol: way.simple}), &way.config)
			if err != nil {
				t.Fatal(err)
			}
			pool, err := db.DB()
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			must(t, db.Migrator().DropTable(&Author{}, &Book{}, &Tag{}, "author_tags"))
			must(t, db.AutoMigrate(&Author{}, &Book{}, &Tag{}))
			f(t, db)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, db *gorm.DB) (n int64) {
	t.Helper()
	must(t, db.Model(&Author{}).Count(&n).Error)
	return n
}

func TestCreateAndPreload(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		a := Author{Name: "ü", Books: []Book{{Title: "one", Price: 1.5}, {Title: "two"}}, Tags: []Tag{{Name: "x"}}}
		must(t, db.Create(&a).Error)
		var got Author
		must(t, db.Preload("Books").Preload("Tags").First(&got, a.ID).Error)
		if len(got.Books) != 2 || got.Books[0].Price != 1.5 || len(got.Tags) != 1 {
			t.Errorf("%+v", got)
		}
		must(t, db.Model(&got).Association("Tags").Append(&Tag{Name: "y"}))
		must(t, db.Model(&got).Updates(map[string]any{"age": gorm.Expr("age + ?", 3)}).Error)
		must(t, db.Delete(&got).Error)
		if err := db.First(&Author{}, a.ID).Error; !errors.Is(err, gorm.ErrRecordNotFound) {
			t.Error(err)
		}
	})
}

func TestBatchesAndConflicts(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		var all []Author
		for i := range 230 {
			all = append(all, Author{Name: fmt.Sprint(i)})
		}
		must(t, db.CreateInBatches(all, 50).Error)
		if err := db.Create(&Author{Name: "1"}).Error; !errors.Is(err, gorm.ErrDuplicatedKey) {
			t.Error(err)
		}
		must(t, db.Clauses(clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"age"})}).Create(&Author{Name: "1", Age: 9}).Error)
		var found []Author
		n := 0
		must(t, db.FindInBatches(&found, 40, func(*gorm.DB, int) error { n += len(found); return nil }).Error)
		if n != 230 {
			t.Error(n)
		}
		must(t, db.Where(Author{Name: "fresh"}).FirstOrCreate(&Author{}).Error)
	})
}

func TestTransactions(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		no := errors.New("no")
		must(t, db.Transaction(func(tx *gorm.DB) error {
			must(t, tx.Create(&Author{Name: "a"}).Error)
			if err := tx.Transaction(func(tx *gorm.DB) error { tx.Create(&Author{Name: "b"}); return no }); !errors.Is(err, no) {
				t.Error(err)
			}
			tx.SavePoint("s")
			tx.Create(&Author{Name: "a"}) // fails
			return tx.RollbackTo("s").Error
		}))
		if err := db.Transaction(func(tx *gorm.DB) error { tx.Create(&Author{Name: "c"}); return no }); !errors.Is(err, no) {
			t.Error(err)
		}
		must(t, db.Transaction(func(tx *gorm.DB) error { return tx.Clauses(clause.Locking{Strength: "UPDATE"}).Find(&[]Author{}).Error }))
		if n := count(t, db); n != 1 {
			t.Error(n)
		}
	})
}

func TestRowsRawAndScopes(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		must(t, db.CreateInBatches([]Author{{Name: "a", Age: 1}, {Name: "b", Age: 2}}, 10).Error)
		rows, err := db.Model(&Author{}).Rows()
		must(t, err)
		n := 0
		for rows.Next() {
			n++
		}
		must(t, rows.Close())
		var sum int
		must(t, db.Raw("SELECT sum(age) FROM authors WHERE age > @age", map[string]any{"age": 0}).Scan(&sum).Error)
		if n != 2 || sum != 3 {
			t.Error(n, sum)
		}
	})
}

func TestMigrator(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		type Author struct {
			gorm.Model
			Name  string `gorm:"uniqueIndex;not null;size:70"`
			Extra int    `gorm:"index"`
		}
		must(t, db.Create(&Tag{Name: "before"}).Error)
		must(t, db.AutoMigrate(&Author{}))
		m := db.Migrator()
		if !m.HasColumn(&Author{}, "Extra") || !m.HasIndex(&Author{}, "Extra") {
			t.Error("not migrated")
		}
		types, err := m.ColumnTypes(&Author{})
		if err != nil || len(types) < 6 {
			t.Error(types, err)
		}
		must(t, m.DropColumn(&Author{}, "Extra"))
		must(t, db.Find(&[]Author{}).Error)
	})
}

func TestTogether(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for n := range 10 {
					if err := db.Create(&Author{Name: fmt.Sprint(i, n)}).Error; err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := count(t, db); n != 200 {
			t.Error(n)
		}
	})
}

func TestTimeOut(t *testing.T) {
	each(t, func(t *testing.T, db *gorm.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := db.WithContext(ctx).Exec("SELECT pg_sleep(20)").Error; err == nil {
			t.Error("it slept")
		}
		must(t, db.Exec("SELECT 1").Error)
	})
}
