# The node on a CPU, without root, installed as scripts/run does it.
#
#   docker build -t imaging-node .
#   docker run -p 11112:11112 -p 127.0.0.1:8080:8080 -v imaging-node:/var/lib/imaging-node \
#     -v ./node.yaml:/etc/imaging-node/node.yaml:ro \
#     -e IMAGING_NODE_CONFIG=/etc/imaging-node/node.yaml imaging-node
#
# Inside a container the node's loopback is its own: published ports reach it only when the file
# says dicom.host 0.0.0.0 with dicom.tls (or allow_plaintext: true) and names dicom.callers, and
# web.host 0.0.0.0. The page asks nobody for a password: publish it on 127.0.0.1 alone.
FROM python:3.11-slim

WORKDIR /opt/imaging-node
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY imaging_node imaging_node
COPY model_zoo model_zoo
RUN pip install --no-cache-dir -c constraints.txt . \
    && useradd --system --no-create-home --shell /usr/sbin/nologin imaging-node \
    && install -d -o imaging-node -g imaging-node -m 0700 /var/lib/imaging-node

# Outside the sources, so that the installed package is the one that runs.
WORKDIR /var/lib/imaging-node
USER imaging-node
ENV IMAGING_NODE__STATE_DIRECTORY=/var/lib/imaging-node PYTHONUNBUFFERED=1
VOLUME /var/lib/imaging-node
EXPOSE 11112 8080
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["imaging-node"]
CMD ["serve"]
