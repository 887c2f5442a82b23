CREATE TABLE tenants (
    tenant_id bigint PRIMARY KEY,
    name      text NOT NULL
);
CREATE TABLE users (
    tenant_id bigint REFERENCES tenants,
    id        bigint,
    email     text NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE projects (
    tenant_id bigint REFERENCES tenants,
    id        bigint,
    title     text NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE orders (
    tenant_id bigint REFERENCES tenants,
    id        bigint,
    user_id   bigint NOT NULL,
    status    text NOT NULL DEFAULT 'new',
    placed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
);
CREATE TABLE order_items (
    tenant_id bigint,
    order_id  bigint,
    line      int,
    product   text NOT NULL,
    cents     bigint NOT NULL,
    PRIMARY KEY (tenant_id, order_id, line),
    FOREIGN KEY (tenant_id, order_id) REFERENCES orders
);
