"""Django OAuth Toolkit behind URLs such as Podero's: a whole Django project in one file. Run by itself it makes the
tables in PEER_DB.

env: PEER_DB (sqlite file), TOKEN_TTL (s), BACKEND=form|json, HASH_SECRETS=1|0 (checking one takes 0.4 s of CPU, as in
     production), CLIENT_ID, CLIENT_SECRET
"""
import os

import django
from django.conf import settings

env = os.environ.get
settings.configure(
    SECRET_KEY="peer",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
                    "rest_framework", "oauth2_provider"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
    # One connection for each thread, kept; several threads write.
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["PEER_DB"], "CONN_MAX_AGE": None,
                           "OPTIONS": {"timeout": 20, "init_command": "PRAGMA journal_mode=WAL;"}}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    LOGGING_CONFIG=None,
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": int(env("TOKEN_TTL", "36000")),
        "OAUTH2_BACKEND_CLASS": {
            "form": "oauth2_provider.oauth2_backends.OAuthLibCore",  # the default
            "json": "oauth2_provider.oauth2_backends.JSONOAuthLibCore",  # Podero's: reads JSON bodies only
        }[env("BACKEND", "form")],
        "SCOPES": {"read": "Read", "write": "Write"},
    },
    REST_FRAMEWORK={"DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]},
)
django.setup()

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import include, path
from oauth2_provider.contrib.rest_framework import OAuth2Authentication, TokenHasScope
from oauth2_provider.models import get_access_token_model, get_application_model
from oauth2_provider.views.generic import ProtectedResourceView
from rest_framework.permissions import BasePermission
from rest_framework.response import Response
from rest_framework.views import APIView

from peer import Peer


class HasToken(BasePermission):
    def has_permission(self, request, view):
        return request.auth is not None  # tokens of client credentials have no user


class Users(APIView):  # what most Django back ends have in front of their data
    authentication_classes = [OAuth2Authentication]
    permission_classes = [HasToken]

    def get(self, request):
        return Response({"client": request.auth.application.client_id, "scope": request.auth.scope})

    def post(self, request):
        return Response({"echo": request.data})


class Admin(Users):
    permission_classes = [TokenHasScope]
    required_scopes = ["admin"]


class View(ProtectedResourceView):  # the toolkit's own view: 403, not 401
    def get(self, request):
        return JsonResponse({})


urlpatterns = [
    path("oauth2/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("api/v2.0/partner/org/users/", Users.as_view()),
    path("api/admin/", Admin.as_view()),
    path("api/forbidding/", View.as_view()),
]

Application, AccessToken = get_application_model(), get_access_token_model()
HASH = env("HASH_SECRETS", "1") == "1"


def register(client_id, secret):
    Application.objects.filter(client_id=client_id).delete()
    Application.objects.create(client_id=client_id, client_secret=secret, hash_client_secret=HASH,
                               client_type=Application.CLIENT_CONFIDENTIAL,
                               authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS)


def rotate(secret):  # the tokens stay, as after a rotation by hand
    application = Application.objects.get(client_id=os.environ["CLIENT_ID"])
    application.client_secret, application.hash_client_secret = secret, HASH
    application.save()


def revoke(_):
    return {"revoked": AccessToken.objects.all().delete()[0]}


if __name__ == "__main__":
    call_command("migrate", verbosity=0, interactive=False)
else:
    if not Application.objects.filter(client_id=os.environ["CLIENT_ID"]).exists():
        register(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])
    application = Peer(get_wsgi_application(), {"/oauth2/token/", "/oauth2/token"},
                       {"revoke": revoke, "secret": rotate})
