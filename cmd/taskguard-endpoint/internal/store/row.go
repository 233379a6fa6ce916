package store

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
	"github.com/taskguard/taskguard/collector/event"
)

// row is an event as a file has it: what queries ask for most, and the whole OCSF event in its JSON form, whose
// attribute unmapped is the event as the agent told it. What is absent is null. The account and the region are not
// called that, as these are the names of folders.
type row struct {
	Time       int64  `parquet:"time,timestamp(microsecond)"` // of the event, by its host's clock
	StoredTime int64  `parquet:"stored_time,timestamp(microsecond)"`
	Kind       string `parquet:"kind,dict"` // "process.exec", …
	ClassUID   int32  `parquet:"class_uid"`
	ActivityID int32  `parquet:"activity_id"`
	TypeUID    int64  `parquet:"type_uid"`
	SeverityID int32  `parquet:"severity_id"`
	StatusID   int32  `parquet:"status_id"`

	Account    string `parquet:"account_uid,optional,dict"`
	Region     string `parquet:"cloud_region,optional,dict"`
	InstanceID string `parquet:"instance_uid,optional,dict"`
	Hostname   string `parquet:"hostname,optional,dict"`

	// The event's identity: no two rows have the same four.
	Agent    string `parquet:"agent,dict"`
	Epoch    int64  `parquet:"epoch"` // ns since 1970
	Sequence int64  `parquet:"sequence"`
	Index    int32  `parquet:"index"` // in what was sealed

	ProcessPID     int64  `parquet:"process_pid,optional"`
	ProcessUID     string `parquet:"process_uid,optional,dict"`
	ProcessName    string `parquet:"process_name,optional,dict"`
	ProcessExe     string `parquet:"process_exe,optional,dict"`
	ProcessCmdLine string `parquet:"process_cmd_line,optional"`
	ProcessUser    string `parquet:"process_user,optional,dict"` // its name, or its number

	ContainerID    string `parquet:"container_uid,optional,dict"`
	ContainerName  string `parquet:"container_name,optional,dict"`
	ContainerImage string `parquet:"container_image,optional,dict"`
	TaskARN        string `parquet:"task_arn,optional,dict"`

	FilePath string `parquet:"file_path,optional"`
	SrcIP    string `parquet:"src_ip,optional,dict"`
	SrcPort  int32  `parquet:"src_port,optional"`
	DstIP    string `parquet:"dst_ip,optional,dict"`
	DstPort  int32  `parquet:"dst_port,optional"`
	DNSName  string `parquet:"dns_name,optional,dict"`

	OCSF string `parquet:"ocsf"`
}

// set makes r the event at index i of a message.
func (r *row) set(m *Message, i int) error {
	h, e := &m.Batch.Header, &m.Batch.Events[i]
	index := h.First + uint32(i)
	o, err := ocsf.From(h, index, m.Stored, e)
	if err != nil {
		return fmt.Errorf("map event: %w", err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode ocsf event: %w", err)
	}
	*r = row{
		Time: e.Time.UnixMicro(), StoredTime: m.Stored.UnixMicro(), Kind: e.Kind.String(), ClassUID: o.ClassUID,
		ActivityID: o.ActivityID, TypeUID: o.TypeUID, SeverityID: o.SeverityID, StatusID: o.StatusID,
		Account: h.Host.AccountID, Region: h.Host.Region, InstanceID: h.Host.InstanceID, Hostname: h.Host.Hostname,
		Agent: h.ID.Agent.String(), Epoch: int64(h.ID.Epoch), Sequence: int64(h.ID.Sequence), Index: int32(index),
		OCSF: string(text),
	}
	r.setProcess(e.Process)
	r.setContainer(e.Container)
	r.setObject(e)
	r.setSides(o)
	r.toText()
	return nil
}

func (r *row) setProcess(p *event.Process) {
	if p == nil {
		return
	}
	r.ProcessPID, r.ProcessName, r.ProcessExe = int64(p.PID), p.Name, p.Exe
	r.ProcessCmdLine = strings.Join(p.Args.Split(), " ")
	if p.ID != (event.ID{}) {
		r.ProcessUID = p.ID.String()
	}
	if r.ProcessUser = p.User; p.User == "" {
		r.ProcessUser = fmt.Sprint(p.UID)
	}
}

func (r *row) setContainer(c *event.Container) {
	if c == nil {
		return
	}
	r.ContainerID, r.ContainerName, r.ContainerImage = c.ID, c.Name, c.Image
	if c.ECS != nil {
		r.TaskARN = c.ECS.TaskARN
	}
}

func (r *row) setObject(e *event.Event) {
	switch {
	case e.File != nil:
		r.FilePath = e.File.Path
	case e.FS != nil:
		r.FilePath = e.FS.Target
	case e.Memory != nil:
		r.FilePath = e.Memory.Path
	case e.Module != nil:
		r.FilePath = e.Module.Path
	case e.DNS != nil && len(e.DNS.Questions) > 0:
		r.DNSName = e.DNS.Questions[0].Name
	}
}

func (r *row) setSides(o *ocsf.Event) {
	if o.Src != nil {
		r.SrcIP, r.SrcPort = o.Src.IP, o.Src.Port
	}
	if o.Dst != nil {
		r.DstIP, r.DstPort = o.Dst.IP, o.Dst.Port
	}
}

// toText replaces bytes that are no UTF-8, which other readers refuse.
func (r *row) toText() {
	for _, s := range r.texts() {
		*s = strings.ToValidUTF8(*s, "\ufffd")
	}
}

func (r *row) texts() []*string {
	return []*string{
		&r.Kind, &r.Account, &r.Region, &r.InstanceID, &r.Hostname, &r.Agent, &r.ProcessUID, &r.ProcessName,
		&r.ProcessExe, &r.ProcessCmdLine, &r.ProcessUser, &r.ContainerID, &r.ContainerName, &r.ContainerImage, &r.TaskARN,
		&r.FilePath, &r.SrcIP, &r.DstIP, &r.DNSName, &r.OCSF,
	}
}

// size is about how many bytes the row takes in memory.
func (r *row) size() int64 {
	n := int64(256)
	for _, s := range r.texts() {
		n += int64(len(*s))
	}
	return n
}
