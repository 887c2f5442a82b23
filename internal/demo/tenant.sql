INSERT INTO tenants VALUES (:id, :name);
INSERT INTO users SELECT :id, n, 'user' || n || '@' || lower(:name) || '.example' FROM generate_series(1, 5) n;
INSERT INTO projects SELECT :id, n, :name || ' project ' || n FROM generate_series(1, 3) n;
INSERT INTO orders SELECT :id, n, 1 + n % 5, (ARRAY['new', 'paid', 'shipped'])[1 + n % 3], timestamptz '2026-01-01' + n * interval '7 hours' FROM generate_series(1, 40) n;
INSERT INTO order_items SELECT :id, o, l, (ARRAY['leash', 'bowl', 'bone', 'basket'])[1 + (o + l) % 4], 100 * o + l FROM generate_series(1, 40) o, generate_series(1, 3) l;
