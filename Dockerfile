FROM python:3.13-slim

# The wheel is built as root; the service runs as a user that may write to /data alone.
COPY pyproject.toml README.md LICENSE /src/
COPY lightipn /src/lightipn
RUN pip install --no-cache-dir /src && rm -rf /src \
    && useradd --system --uid 10001 --no-create-home lightipn \
    && install -d -o lightipn -g lightipn /data

USER lightipn
WORKDIR /data
VOLUME /data
ENV LIGHTIPN_DATABASE=/data/lightipn.db \
    LIGHTIPN_API_BIND=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["lightipn"]
CMD ["serve"]
