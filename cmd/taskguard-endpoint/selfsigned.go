package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// selfSignedFor is how long a self-signed certificate lasts; one that would end within a tenth of it is made anew.
const selfSignedFor = 365 * 24 * time.Hour

// selfSigned returns the certificate kept in dir, so that agents that trust its ca.pem still do after a restart. It
// makes a new authority and a new certificate if there is none, or it is not for all hosts, or about to end. The
// authority's key is never written, so nothing else can be signed by it.
func selfSigned(dir string, hosts []string, now time.Time) (tls.Certificate, error) {
	if certificate, err := loadSelfSigned(dir, hosts, now); err == nil {
		return certificate, nil
	}
	if err := writeSelfSigned(dir, hosts, now); err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	certificate, err := loadSelfSigned(dir, hosts, now)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return certificate, nil
}

func loadSelfSigned(dir string, hosts []string, now time.Time) (tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem"))
	if err != nil {
		return tls.Certificate{}, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return tls.Certificate{}, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, host := range hosts {
		options := x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now.Add(selfSignedFor / 10)}
		if _, err := certificate.Leaf.Verify(options); err != nil {
			return tls.Certificate{}, err
		}
	}
	return certificate, nil
}

func writeSelfSigned(dir string, hosts []string, now time.Time) error {
	authority := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "TaskGuard self-signed authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSignedFor),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "taskguard-endpoint"},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else {
			server.DNSNames = append(server.DNSNames, host)
		}
	}
	authorityKey, authorityPEM, err := sign(authority, nil, nil)
	if err != nil {
		return err
	}
	serverKey, serverPEM, err := sign(server, authority, authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for _, file := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{{"server-key.pem", keyPEM, 0o600}, {"server.pem", serverPEM, 0o644}, {"ca.pem", authorityPEM, 0o644}} {
		if err := os.WriteFile(filepath.Join(dir, file.name), file.content, file.mode); err != nil {
			return err
		}
	}
	return nil
}

// sign makes a key and signs a certificate for it, with itself when there is no parent.
func sign(template, parent *x509.Certificate, parentKey crypto.Signer) (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
