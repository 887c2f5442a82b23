"""Two databases, which there are already."""
import os

DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name, "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
        "TEST": {"NAME": name},
    }
    for alias, name in {"default": "app", "other": "other"}.items()
}
SECRET_KEY = "of tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
