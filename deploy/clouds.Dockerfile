# A bundle's image for SageMaker, Lambda, Vertex AI, Cloud Run and Azure ML. Written for Docker; not built here.
# IMAGE is the bundle's (docs/targets/compose.md), ADAPTER the Lambda Web Adapter, both by digest:
#   docker buildx imagetools inspect public.ecr.aws/awsguru/aws-lambda-adapter:1.0.0 --format '{{.Manifest.Digest}}'
# Command: docker build --file deploy/clouds.Dockerfile --build-arg IMAGE=…@sha256:… --build-arg ADAPTER=…@sha256:… --tag … .
ARG IMAGE
ARG ADAPTER
FROM ${ADAPTER} AS adapter
FROM ${IMAGE}
# Lambda alone starts it; elsewhere it is a file that nobody reads.
COPY --from=adapter /lambda-adapter /opt/extensions/lambda-adapter
EXPOSE 8080
USER 10001
ENTRYPOINT ["python", "-m", "forgeline.serving.contained"]
