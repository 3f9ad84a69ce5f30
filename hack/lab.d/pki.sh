# shellcheck shell=bash
# The certificates and kubeconfigs of one lab cluster: one CA, ECDSA keys throughout.
#
# Everything lies in one folder and lives as long as the cluster; nothing here is fit for use outside a lab.
# Expects $pki (the folder) to be set by whoever sources this.

# The CA, the ServiceAccount key pair and an empty serial.
pki_start() {
    mkdir -p "$pki"
    chmod 0700 "$pki"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/ca.key"
    openssl req -x509 -new -key "$pki/ca.key" -subj "/CN=epic-lab" -days 30 -out "$pki/ca.crt"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/sa.key"
    openssl ec -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
}

# pki_issue FILE COMMON-NAME [ORGANISATION [SUBJECT-ALTERNATIVE-NAMES]]
pki_issue() {
    local file=$1 subject="/CN=$2"
    [ -z "${3:-}" ] || subject="/O=$3/CN=$2"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$pki/$file.key" -subj "$subject" -out "$pki/$file.csr" 2>/dev/null
    {
        echo 'basicConstraints=critical,CA:FALSE'
        echo 'keyUsage=critical,digitalSignature'
        echo 'extendedKeyUsage=serverAuth,clientAuth'
        [ -z "${4:-}" ] || echo "subjectAltName=$4"
    } >"$pki/$file.ext"
    openssl x509 -req -in "$pki/$file.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" \
        -set_serial "0x$(openssl rand -hex 8)" -days 30 -extfile "$pki/$file.ext" -out "$pki/$file.crt" 2>/dev/null
    rm "$pki/$file.csr" "$pki/$file.ext"
}

# pki_kubeconfig FILE SERVER OUT: a kubeconfig with everything embedded, written whole.
pki_kubeconfig() {
    local file=$1 server=$2 out=$3
    (
        umask 077
        cat >"$out.partial" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {server: "$server", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}
users:
- name: $file
  user: {client-certificate-data: $(base64 -w0 "$pki/$file.crt"), client-key-data: $(base64 -w0 "$pki/$file.key")}
contexts:
- name: lab
  context: {cluster: lab, user: $file}
current-context: lab
YAML
    )
    mv "$out.partial" "$out"
}
