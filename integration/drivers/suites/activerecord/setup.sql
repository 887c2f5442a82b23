CREATE DATABASE activerecord_unittest OWNER app;
CREATE DATABASE activerecord_unittest2 OWNER app;
