CREATE DATABASE isolation_regression OWNER app;
