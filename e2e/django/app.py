"""A products API in Django REST framework.

With TAGS=own it has the tags of Django's ConditionalGetMiddleware, which checks
If-None-Match of reads, and If-Match of none.
"""

import os
import sys

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    APPEND_SLASH=False,
    INSTALLED_APPS=["rest_framework"],
    MIDDLEWARE=["django.middleware.http.ConditionalGetMiddleware"] if os.environ.get("TAGS") == "own" else [],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for a test",
    USE_TZ=True,
)
django.setup()

from django.core.management import execute_from_command_line  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers, status  # noqa: E402
from rest_framework.exceptions import NotFound  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

products = {}
last_id = 0


class ProductSerializer(serializers.Serializer):
    id = serializers.IntegerField(read_only=True)
    name = serializers.CharField()
    price = serializers.FloatField()


def find(product_id):
    if product_id not in products:
        raise NotFound("no such product")
    return products[product_id]


class ProductList(APIView):
    def get(self, request):
        return Response(ProductSerializer(products.values(), many=True).data)

    def post(self, request):
        global last_id
        serializer = ProductSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        last_id += 1
        products[last_id] = {"id": last_id, **serializer.validated_data}
        return Response(ProductSerializer(products[last_id]).data, status.HTTP_201_CREATED)


class ProductDetail(APIView):
    def get(self, request, product_id):
        return Response(ProductSerializer(find(product_id)).data)

    def put(self, request, product_id, partial=False):
        product = find(product_id)
        serializer = ProductSerializer(product, data=request.data, partial=partial)
        serializer.is_valid(raise_exception=True)
        product.update(serializer.validated_data)
        return Response(ProductSerializer(product).data)

    def patch(self, request, product_id):
        return self.put(request, product_id, partial=True)

    def delete(self, request, product_id):
        find(product_id)
        del products[product_id]
        return Response(status=status.HTTP_204_NO_CONTENT)


urlpatterns = [
    path("products", ProductList.as_view()),
    path("products/<int:product_id>", ProductDetail.as_view()),
]

if __name__ == "__main__":
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", "127.0.0.1:" + os.environ["PORT"]])
