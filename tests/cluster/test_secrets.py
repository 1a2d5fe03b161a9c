"""What is taken for a secret, and what is not."""

from pathlib import Path

import pytest

from cluster.secrets import holds_key, holds_secret, is_random, is_secret, is_secret_name, names_secret, secret_files

NAMES = """AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ACCESS_KEY_ID HF_TOKEN HUGGING_FACE_HUB_TOKEN WANDB_API_KEY
OPENAI_API_KEY DB_PASSWORD PGPASSWORD MYSQL_PWD DBPASS SMTP_PASS GITHUB_PAT SLACK_WEBHOOK SENTRY_DSN AZURE_CLIENT_SECRET
AZURE_STORAGE_CONNECTION_STRING APIKEY APITOKEN ACCESSKEY SSH_PRIVATE_KEY JWT SESSION_COOKIE BEARER BASIC_AUTH
PASSPHRASE
GOOGLE_CREDENTIALS CREDS USER_PIN HASH_SALT LDAP_PASSWD NPM_AUTH secret_key githubtoken DOCKER_AUTH_CONFIG STORAGE_SAS
TWINE_PASSWORD CI_JOB_JWT VAULT_TOKEN ENCRYPTION_KEYS""".split()  # noqa: SIM905
PLAIN_NAMES = """AWS_PROFILE AWS_REGION AWS_ENDPOINT_URL ORTHOPLEX_DATA_DIR ORTHOPLEX_SIGNING_KEY_FILE KEYBOARD
MAX_TOKENS
TOKENIZERS_PARALLELISM AWS_WEB_IDENTITY_TOKEN_FILE AUTHOR COMPASS BYPASS_CACHE PATH PWD_FILE RAY_AUTH_MODE MONKEY HOME
OMP_NUM_THREADS LOG_LEVEL KEY_PATH ORTHOPLEX_STORE_PATIENCE_S HF_HOME PASSIVE""".split()  # noqa: SIM905
VALUES = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "hf_abcdefghijklmnopqrstuvwxyz", "sk-abcdefghijklmnop1234",
    "xoxb-123456789012-abcdef", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "postgresql://me:hunter2@host/db",
    "https://token@host", "Bearer abcdef123456", "Server=a;Password=hunter2", "AccountKey=abcdefgh==",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "550e8400-e29b-41d4-a716-446655440000",
    "Zx81kQ93mNb27vLp", "AIzaSyA-1234567890abcdefghijklmnopqrst",
)  # fmt: skip
PLAIN_VALUES = (
    "", "true", "3", "eu-west-1", "/var/run/secrets/aws/credentials", "https://minio.example.org:9000", "info,debug",
    "/mnt/pvc-550e8400-e29b-41d4-a716-446655440000/data", "s3://bucket/9f86d081884c7d659a2feaa0c55ad015",
    "expandable_segments:True",
    "TransformersVersion2024", "internationalization2024", "20240101T120000Z", "a@b.org", "~/x",
    "max_split_size_mb:128",
)  # fmt: skip
FILES = """id_rsa id_ed25519 id_rsa.bak .git-credentials .pypirc .npmrc .yarnrc.yml .netrc .env .env.local prod.env
.envrc
.pgpass .my.cnf .htpasswd .boto .s3cfg .dockercfg .docker/config.json .kube/config kubeconfig .aws/credentials
.ssh/config
credentials.json client_secret_12.json secrets.yaml Secrets.toml service-account.json my_service_account.json
passwords.txt
token.json hf_token.txt api_key.txt server.pem a/tls.key cert.p12 cert.pfx store.jks app.keystore vault.kdbx key.ppk
backup.gpg terraform.tfstate prod.tfvars .vault-token kaggle.json rclone.conf .bash_history .databrickscfg client.ovpn
.azure/accessTokens.json .gnupg/secring .streamlit/secrets.toml pip.conf""".split()  # noqa: SIM905
PLAIN_FILES = """a.yaml train.jsonl tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json
secrets.py
cluster/secrets.py tests/test_passwords.py config.json model.safetensors keys.py README.md .gitignore .rayignore
monkey.csv
secret_santa.csv data/passwords.parquet Makefile environment.yml""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name) and is_secret(name, "x")


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_names(name: str) -> None:
    assert not is_secret(name, "/some/place")


@pytest.mark.parametrize("value", VALUES)
def test_values_of_secrets(value: str) -> None:
    assert holds_secret(value) and is_secret("LEVEL", value)


@pytest.mark.parametrize("value", PLAIN_VALUES)
def test_other_values(value: str) -> None:
    assert not holds_secret(value)


def test_what_looks_drawn_at_random() -> None:
    assert is_random("a1b2c3d4e5f6a7b8") and not is_random("a1b2c3d4e5") and not is_random("aaaaaaaa11111111")
    assert not is_random("a1a1a1a1a1a1a1a1"), "it changes all the time, and holds nothing"


@pytest.mark.parametrize("name", FILES)
def test_files_of_secrets(name: str) -> None:
    assert is_secret_name(name) and is_secret_name(f"deep/below/{name}")


@pytest.mark.parametrize("name", PLAIN_FILES)
def test_other_files(name: str) -> None:
    assert not is_secret_name(name)


def test_files_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n")
    (tmp_path / "data.csv").write_bytes(b"\xff\x00 AKIAIOSFODNN7EXAMPLE")
    (tmp_path / "code.py").write_text("key = read('-----BEGIN')\n")
    (tmp_path / "large.bin").write_bytes(b"-----BEGIN PRIVATE KEY-----" + b"\0" * (64 << 10))
    assert [holds_key(tmp_path / name) for name in ("notes.txt", "data.csv", "code.py", "large.bin", "absent")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    names = ["notes.txt", "data.csv", "code.py", "sub/.npmrc"]
    assert secret_files(tmp_path, names) == ["notes.txt", "data.csv", "sub/.npmrc"]
    assert secret_files(tmp_path, names, {"data.csv", ".npmrc"}) == ["notes.txt"]
