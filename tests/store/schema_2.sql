BEGIN TRANSACTION;
CREATE TABLE commitment_items (
	id INTEGER NOT NULL, 
	transaction_uid VARCHAR NOT NULL, 
	delivery_id INTEGER NOT NULL, 
	has_failed BOOLEAN NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (transaction_uid, delivery_id), 
	FOREIGN KEY(transaction_uid) REFERENCES commitment_requests (transaction_uid), 
	FOREIGN KEY(delivery_id) REFERENCES deliveries (id)
);
CREATE TABLE commitment_reports (
	id INTEGER NOT NULL, 
	calling_ae_title VARCHAR NOT NULL, 
	transaction_uid VARCHAR NOT NULL, 
	noted_at BIGINT NOT NULL, 
	wanted JSON NOT NULL, 
	failed JSON, 
	state VARCHAR NOT NULL, 
	attempts INTEGER NOT NULL, 
	last_status VARCHAR NOT NULL, 
	next_attempt_at BIGINT, 
	claimed_by VARCHAR NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (calling_ae_title, transaction_uid), 
	CONSTRAINT commitment_report_state_is_known CHECK (state in ('waiting', 'stored', 'delivered', 'parked'))
);
CREATE TABLE commitment_requests (
	transaction_uid VARCHAR NOT NULL, 
	destination VARCHAR NOT NULL, 
	asked_at BIGINT NOT NULL, 
	reported_at BIGINT, 
	checksum INTEGER, 
	PRIMARY KEY (transaction_uid)
);
CREATE TABLE damaged_rows (
	table_name VARCHAR NOT NULL, 
	row_id INTEGER NOT NULL, 
	noticed_at BIGINT NOT NULL, 
	PRIMARY KEY (table_name, row_id)
);
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	destination VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	urgency INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	last_status VARCHAR NOT NULL, 
	next_attempt_at BIGINT, 
	claimed_by VARCHAR NOT NULL, 
	delivered_at BIGINT, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (sop_instance_uid, destination), 
	CONSTRAINT delivery_state_is_known CHECK (state in ('waiting', 'stored', 'delivered', 'parked')), 
	FOREIGN KEY(sop_instance_uid) REFERENCES objects (sop_instance_uid)
);
INSERT INTO "deliveries" VALUES(5,'2.25.1','1.2.3','pacs','waiting',1,0,'',1795435206000000,'',NULL,1511904245);
CREATE TABLE instances (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	series_instance_uid VARCHAR NOT NULL, 
	sop_instance_uid VARCHAR NOT NULL, 
	sop_class_uid VARCHAR NOT NULL, 
	transfer_syntax_uid VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	header JSON NOT NULL, 
	calling_ae_title VARCHAR NOT NULL, 
	received_at BIGINT NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (study_instance_uid, sop_instance_uid, digest), 
	FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
INSERT INTO "instances" VALUES(7,'1.2.3','1.2.3.9','1.2.3.1','1.2.840.10008.5.1.4.1.1.1.1','1.2.840.10008.1.2.1','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','','{"path": "", "digest": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.9", "sop_instance_uid": "1.2.3.1", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "modality": "DX", "body_part": "CHEST", "view_position": "AP", "photometric_interpretation": "MONOCHROME2", "presentation_intent": "FOR PRESENTATION", "patient_age_years": 4.0, "rows": 512, "columns": 512, "number_of_frames": 1, "has_pixel_data": true}','MODALITY',1795435200000000,1431096574);
CREATE TABLE node (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "node" VALUES('schema_version','2');
CREATE TABLE objects (
	sop_instance_uid VARCHAR NOT NULL, 
	sop_class_uid VARCHAR NOT NULL, 
	series_instance_uid VARCHAR NOT NULL, 
	transfer_syntax_uid VARCHAR NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	label VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (sop_instance_uid), 
	FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
INSERT INTO "objects" VALUES('2.25.1','1.2.840.10008.5.1.4.1.1.88.34','2.25.9','1.2.840.10008.1.2.1','1.2.3',1,'report','','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',1795435206000000,3487643295);
CREATE TABLE quarantine (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	series_instance_uid VARCHAR NOT NULL, 
	sop_instance_uid VARCHAR NOT NULL, 
	sop_class_uid VARCHAR NOT NULL, 
	transfer_syntax_uid VARCHAR NOT NULL, 
	accession_number VARCHAR NOT NULL, 
	patient_digest VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	calling_ae_title VARCHAR NOT NULL, 
	received_at BIGINT NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (study_instance_uid, sop_instance_uid, digest)
);
CREATE TABLE results (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	model_digest VARCHAR NOT NULL, 
	report_series_instance_uid VARCHAR NOT NULL, 
	report_sop_class_uid VARCHAR NOT NULL, 
	report_sop_instance_uid VARCHAR NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
INSERT INTO "results" VALUES(1,'1.2.3',1,'chest','sha256:0','2.25.9','1.2.840.10008.5.1.4.1.1.88.34','2.25.1',1795435206000000,4058246858);
CREATE TABLE roles (
	role VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at BIGINT NOT NULL, 
	heartbeat_at BIGINT NOT NULL, 
	counters JSON NOT NULL, 
	PRIMARY KEY (role)
);
CREATE TABLE series (
	series_instance_uid VARCHAR NOT NULL, 
	started_at BIGINT NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (series_instance_uid)
);
INSERT INTO "series" VALUES('2.25.9',1795435206000000,1903054752);
CREATE TABLE studies (
	study_instance_uid VARCHAR NOT NULL, 
	patient_digest VARCHAR NOT NULL, 
	accession_number VARCHAR NOT NULL, 
	study_at BIGINT, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	ordered_priority VARCHAR NOT NULL, 
	priority VARCHAR NOT NULL, 
	priority_reason VARCHAR NOT NULL, 
	urgency INTEGER NOT NULL, 
	is_archive BOOLEAN NOT NULL, 
	attempts INTEGER NOT NULL, 
	due_at BIGINT NOT NULL, 
	claim_token VARCHAR NOT NULL, 
	claimed_by VARCHAR NOT NULL, 
	received_at BIGINT NOT NULL, 
	finished_at BIGINT, 
	findings JSON NOT NULL, 
	remarks JSON NOT NULL, 
	instances_rows INTEGER NOT NULL, 
	results_rows INTEGER NOT NULL, 
	objects_rows INTEGER NOT NULL, 
	checksum INTEGER, 
	PRIMARY KEY (study_instance_uid), 
	CONSTRAINT study_state_is_known CHECK (state in ('receiving', 'queued', 'scoring', 'done', 'not_analysed', 'not_applicable', 'failed')), 
	CONSTRAINT priority_is_known CHECK (priority in ('routine', 'urgent', 'asap', 'stat'))
);
INSERT INTO "studies" VALUES('1.2.3','p1','ACC1',1795430000000000,'done','',1,'routine','urgent','Pneumonia present',1,0,1,1795435205000000,'','',1795435200000000,1795435206000000,'[{"label": "Pneumonia", "probability": 0.9, "operating_point": 0.6, "undetermined_from": 0.3, "interval": null, "spread": null, "sop_instance_uid": "1.2.3.1", "absence_withheld": false}]','[]',1,1,1,2813453788);
INSERT INTO "studies" VALUES('1.2.4','p2','ACC2',NULL,'receiving','',1,'stat','stat','as ordered',3,0,0,1795435205000000,'','',1795435200000000,NULL,'[]','[]',0,0,0,4159807154);
CREATE TABLE transitions (
	id INTEGER NOT NULL, 
	subject VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	moved_by VARCHAR NOT NULL, 
	moved_at BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "transitions" VALUES(1,'1.2.3','receiving','','receive',1795435200000000);
CREATE INDEX studies_by_due ON studies (state, due_at);
CREATE INDEX studies_by_rank ON studies (is_archive, urgency, due_at) WHERE state IN ('receiving', 'queued', 'scoring');
CREATE INDEX commitment_reports_by_due ON commitment_reports (calling_ae_title, state, next_attempt_at);
CREATE INDEX instances_by_sop ON instances (sop_instance_uid);
CREATE INDEX results_by_study ON results (study_instance_uid);
CREATE INDEX objects_by_study ON objects (study_instance_uid, generation);
CREATE INDEX deliveries_by_due ON deliveries (state, next_attempt_at);
CREATE INDEX deliveries_by_rank ON deliveries (destination, urgency DESC, id) WHERE state = 'waiting';
CREATE INDEX deliveries_by_study ON deliveries (study_instance_uid);
CREATE INDEX commitment_items_by_delivery ON commitment_items (delivery_id);
CREATE TRIGGER commitment_reports_verified BEFORE UPDATE OF id, calling_ae_title, transaction_uid, noted_at, wanted, failed, state, attempts, last_status, next_attempt_at, claimed_by ON commitment_reports WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.id, OLD.calling_ae_title, OLD.transaction_uid, OLD.noted_at, OLD.wanted, OLD.state, OLD.attempts, OLD.last_status, OLD.claimed_by)), CAST(OLD.id AS BLOB), CAST(OLD.calling_ae_title AS BLOB), CAST(OLD.transaction_uid AS BLOB), CAST(OLD.noted_at AS BLOB), CAST(OLD.wanted AS BLOB), CAST(OLD.failed AS BLOB), CAST(OLD.state AS BLOB), CAST(OLD.attempts AS BLOB), CAST(OLD.last_status AS BLOB), CAST(OLD.next_attempt_at AS BLOB), CAST(OLD.claimed_by AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER commitment_reports_sealed_at_update AFTER UPDATE OF id, calling_ae_title, transaction_uid, noted_at, wanted, failed, state, attempts, last_status, next_attempt_at, claimed_by ON commitment_reports BEGIN UPDATE commitment_reports SET checksum = row_checksum(typeof(max(commitment_reports.id, commitment_reports.calling_ae_title, commitment_reports.transaction_uid, commitment_reports.noted_at, commitment_reports.wanted, commitment_reports.state, commitment_reports.attempts, commitment_reports.last_status, commitment_reports.claimed_by)), CAST(commitment_reports.id AS BLOB), CAST(commitment_reports.calling_ae_title AS BLOB), CAST(commitment_reports.transaction_uid AS BLOB), CAST(commitment_reports.noted_at AS BLOB), CAST(commitment_reports.wanted AS BLOB), CAST(commitment_reports.failed AS BLOB), CAST(commitment_reports.state AS BLOB), CAST(commitment_reports.attempts AS BLOB), CAST(commitment_reports.last_status AS BLOB), CAST(commitment_reports.next_attempt_at AS BLOB), CAST(commitment_reports.claimed_by AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER commitment_reports_sealed_at_insert AFTER INSERT ON commitment_reports WHEN NEW.checksum IS NULL BEGIN UPDATE commitment_reports SET checksum = row_checksum(typeof(max(commitment_reports.id, commitment_reports.calling_ae_title, commitment_reports.transaction_uid, commitment_reports.noted_at, commitment_reports.wanted, commitment_reports.state, commitment_reports.attempts, commitment_reports.last_status, commitment_reports.claimed_by)), CAST(commitment_reports.id AS BLOB), CAST(commitment_reports.calling_ae_title AS BLOB), CAST(commitment_reports.transaction_uid AS BLOB), CAST(commitment_reports.noted_at AS BLOB), CAST(commitment_reports.wanted AS BLOB), CAST(commitment_reports.failed AS BLOB), CAST(commitment_reports.state AS BLOB), CAST(commitment_reports.attempts AS BLOB), CAST(commitment_reports.last_status AS BLOB), CAST(commitment_reports.next_attempt_at AS BLOB), CAST(commitment_reports.claimed_by AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER commitment_requests_verified BEFORE UPDATE OF transaction_uid, destination, asked_at, reported_at ON commitment_requests WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.transaction_uid, OLD.destination, OLD.asked_at)), CAST(OLD.transaction_uid AS BLOB), CAST(OLD.destination AS BLOB), CAST(OLD.asked_at AS BLOB), CAST(OLD.reported_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER commitment_requests_sealed_at_update AFTER UPDATE OF transaction_uid, destination, asked_at, reported_at ON commitment_requests BEGIN UPDATE commitment_requests SET checksum = row_checksum(typeof(max(commitment_requests.transaction_uid, commitment_requests.destination, commitment_requests.asked_at)), CAST(commitment_requests.transaction_uid AS BLOB), CAST(commitment_requests.destination AS BLOB), CAST(commitment_requests.asked_at AS BLOB), CAST(commitment_requests.reported_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER commitment_requests_sealed_at_insert AFTER INSERT ON commitment_requests WHEN NEW.checksum IS NULL BEGIN UPDATE commitment_requests SET checksum = row_checksum(typeof(max(commitment_requests.transaction_uid, commitment_requests.destination, commitment_requests.asked_at)), CAST(commitment_requests.transaction_uid AS BLOB), CAST(commitment_requests.destination AS BLOB), CAST(commitment_requests.asked_at AS BLOB), CAST(commitment_requests.reported_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER quarantine_verified BEFORE UPDATE OF id, study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, accession_number, patient_digest, digest, reason, calling_ae_title, received_at ON quarantine WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.id, OLD.study_instance_uid, OLD.series_instance_uid, OLD.sop_instance_uid, OLD.sop_class_uid, OLD.transfer_syntax_uid, OLD.accession_number, OLD.patient_digest, OLD.digest, OLD.reason, OLD.calling_ae_title, OLD.received_at)), CAST(OLD.id AS BLOB), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.series_instance_uid AS BLOB), CAST(OLD.sop_instance_uid AS BLOB), CAST(OLD.sop_class_uid AS BLOB), CAST(OLD.transfer_syntax_uid AS BLOB), CAST(OLD.accession_number AS BLOB), CAST(OLD.patient_digest AS BLOB), CAST(OLD.digest AS BLOB), CAST(OLD.reason AS BLOB), CAST(OLD.calling_ae_title AS BLOB), CAST(OLD.received_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER quarantine_sealed_at_update AFTER UPDATE OF id, study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, accession_number, patient_digest, digest, reason, calling_ae_title, received_at ON quarantine BEGIN UPDATE quarantine SET checksum = row_checksum(typeof(max(quarantine.id, quarantine.study_instance_uid, quarantine.series_instance_uid, quarantine.sop_instance_uid, quarantine.sop_class_uid, quarantine.transfer_syntax_uid, quarantine.accession_number, quarantine.patient_digest, quarantine.digest, quarantine.reason, quarantine.calling_ae_title, quarantine.received_at)), CAST(quarantine.id AS BLOB), CAST(quarantine.study_instance_uid AS BLOB), CAST(quarantine.series_instance_uid AS BLOB), CAST(quarantine.sop_instance_uid AS BLOB), CAST(quarantine.sop_class_uid AS BLOB), CAST(quarantine.transfer_syntax_uid AS BLOB), CAST(quarantine.accession_number AS BLOB), CAST(quarantine.patient_digest AS BLOB), CAST(quarantine.digest AS BLOB), CAST(quarantine.reason AS BLOB), CAST(quarantine.calling_ae_title AS BLOB), CAST(quarantine.received_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER quarantine_sealed_at_insert AFTER INSERT ON quarantine WHEN NEW.checksum IS NULL BEGIN UPDATE quarantine SET checksum = row_checksum(typeof(max(quarantine.id, quarantine.study_instance_uid, quarantine.series_instance_uid, quarantine.sop_instance_uid, quarantine.sop_class_uid, quarantine.transfer_syntax_uid, quarantine.accession_number, quarantine.patient_digest, quarantine.digest, quarantine.reason, quarantine.calling_ae_title, quarantine.received_at)), CAST(quarantine.id AS BLOB), CAST(quarantine.study_instance_uid AS BLOB), CAST(quarantine.series_instance_uid AS BLOB), CAST(quarantine.sop_instance_uid AS BLOB), CAST(quarantine.sop_class_uid AS BLOB), CAST(quarantine.transfer_syntax_uid AS BLOB), CAST(quarantine.accession_number AS BLOB), CAST(quarantine.patient_digest AS BLOB), CAST(quarantine.digest AS BLOB), CAST(quarantine.reason AS BLOB), CAST(quarantine.calling_ae_title AS BLOB), CAST(quarantine.received_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER series_verified BEFORE UPDATE OF series_instance_uid, started_at ON series WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.series_instance_uid, OLD.started_at)), CAST(OLD.series_instance_uid AS BLOB), CAST(OLD.started_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER series_sealed_at_update AFTER UPDATE OF series_instance_uid, started_at ON series BEGIN UPDATE series SET checksum = row_checksum(typeof(max(series.series_instance_uid, series.started_at)), CAST(series.series_instance_uid AS BLOB), CAST(series.started_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER series_sealed_at_insert AFTER INSERT ON series WHEN NEW.checksum IS NULL BEGIN UPDATE series SET checksum = row_checksum(typeof(max(series.series_instance_uid, series.started_at)), CAST(series.series_instance_uid AS BLOB), CAST(series.started_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER studies_verified BEFORE UPDATE OF study_instance_uid, patient_digest, accession_number, study_at, state, reason, generation, ordered_priority, priority, priority_reason, urgency, is_archive, attempts, due_at, claim_token, claimed_by, received_at, finished_at, findings, remarks ON studies WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.study_instance_uid, OLD.patient_digest, OLD.accession_number, OLD.state, OLD.reason, OLD.generation, OLD.ordered_priority, OLD.priority, OLD.priority_reason, OLD.urgency, OLD.is_archive, OLD.attempts, OLD.due_at, OLD.claim_token, OLD.claimed_by, OLD.received_at, OLD.findings, OLD.remarks)), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.patient_digest AS BLOB), CAST(OLD.accession_number AS BLOB), CAST(OLD.study_at AS BLOB), CAST(OLD.state AS BLOB), CAST(OLD.reason AS BLOB), CAST(OLD.generation AS BLOB), CAST(OLD.ordered_priority AS BLOB), CAST(OLD.priority AS BLOB), CAST(OLD.priority_reason AS BLOB), CAST(OLD.urgency AS BLOB), CAST(OLD.is_archive AS BLOB), CAST(OLD.attempts AS BLOB), CAST(OLD.due_at AS BLOB), CAST(OLD.claim_token AS BLOB), CAST(OLD.claimed_by AS BLOB), CAST(OLD.received_at AS BLOB), CAST(OLD.finished_at AS BLOB), CAST(OLD.findings AS BLOB), CAST(OLD.remarks AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER studies_sealed_at_update AFTER UPDATE OF study_instance_uid, patient_digest, accession_number, study_at, state, reason, generation, ordered_priority, priority, priority_reason, urgency, is_archive, attempts, due_at, claim_token, claimed_by, received_at, finished_at, findings, remarks ON studies BEGIN UPDATE studies SET checksum = row_checksum(typeof(max(studies.study_instance_uid, studies.patient_digest, studies.accession_number, studies.state, studies.reason, studies.generation, studies.ordered_priority, studies.priority, studies.priority_reason, studies.urgency, studies.is_archive, studies.attempts, studies.due_at, studies.claim_token, studies.claimed_by, studies.received_at, studies.findings, studies.remarks)), CAST(studies.study_instance_uid AS BLOB), CAST(studies.patient_digest AS BLOB), CAST(studies.accession_number AS BLOB), CAST(studies.study_at AS BLOB), CAST(studies.state AS BLOB), CAST(studies.reason AS BLOB), CAST(studies.generation AS BLOB), CAST(studies.ordered_priority AS BLOB), CAST(studies.priority AS BLOB), CAST(studies.priority_reason AS BLOB), CAST(studies.urgency AS BLOB), CAST(studies.is_archive AS BLOB), CAST(studies.attempts AS BLOB), CAST(studies.due_at AS BLOB), CAST(studies.claim_token AS BLOB), CAST(studies.claimed_by AS BLOB), CAST(studies.received_at AS BLOB), CAST(studies.finished_at AS BLOB), CAST(studies.findings AS BLOB), CAST(studies.remarks AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER studies_sealed_at_insert AFTER INSERT ON studies WHEN NEW.checksum IS NULL BEGIN UPDATE studies SET checksum = row_checksum(typeof(max(studies.study_instance_uid, studies.patient_digest, studies.accession_number, studies.state, studies.reason, studies.generation, studies.ordered_priority, studies.priority, studies.priority_reason, studies.urgency, studies.is_archive, studies.attempts, studies.due_at, studies.claim_token, studies.claimed_by, studies.received_at, studies.findings, studies.remarks)), CAST(studies.study_instance_uid AS BLOB), CAST(studies.patient_digest AS BLOB), CAST(studies.accession_number AS BLOB), CAST(studies.study_at AS BLOB), CAST(studies.state AS BLOB), CAST(studies.reason AS BLOB), CAST(studies.generation AS BLOB), CAST(studies.ordered_priority AS BLOB), CAST(studies.priority AS BLOB), CAST(studies.priority_reason AS BLOB), CAST(studies.urgency AS BLOB), CAST(studies.is_archive AS BLOB), CAST(studies.attempts AS BLOB), CAST(studies.due_at AS BLOB), CAST(studies.claim_token AS BLOB), CAST(studies.claimed_by AS BLOB), CAST(studies.received_at AS BLOB), CAST(studies.finished_at AS BLOB), CAST(studies.findings AS BLOB), CAST(studies.remarks AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER instances_verified BEFORE UPDATE OF study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, path, header, calling_ae_title, received_at ON instances WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.study_instance_uid, OLD.series_instance_uid, OLD.sop_instance_uid, OLD.sop_class_uid, OLD.transfer_syntax_uid, OLD.digest, OLD.path, OLD.header, OLD.calling_ae_title, OLD.received_at)), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.series_instance_uid AS BLOB), CAST(OLD.sop_instance_uid AS BLOB), CAST(OLD.sop_class_uid AS BLOB), CAST(OLD.transfer_syntax_uid AS BLOB), CAST(OLD.digest AS BLOB), CAST(OLD.path AS BLOB), CAST(OLD.header AS BLOB), CAST(OLD.calling_ae_title AS BLOB), CAST(OLD.received_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER instances_sealed_at_update AFTER UPDATE OF study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, path, header, calling_ae_title, received_at ON instances BEGIN UPDATE instances SET checksum = row_checksum(typeof(max(instances.study_instance_uid, instances.series_instance_uid, instances.sop_instance_uid, instances.sop_class_uid, instances.transfer_syntax_uid, instances.digest, instances.path, instances.header, instances.calling_ae_title, instances.received_at)), CAST(instances.study_instance_uid AS BLOB), CAST(instances.series_instance_uid AS BLOB), CAST(instances.sop_instance_uid AS BLOB), CAST(instances.sop_class_uid AS BLOB), CAST(instances.transfer_syntax_uid AS BLOB), CAST(instances.digest AS BLOB), CAST(instances.path AS BLOB), CAST(instances.header AS BLOB), CAST(instances.calling_ae_title AS BLOB), CAST(instances.received_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER instances_sealed_at_insert AFTER INSERT ON instances WHEN NEW.checksum IS NULL BEGIN UPDATE instances SET checksum = row_checksum(typeof(max(instances.study_instance_uid, instances.series_instance_uid, instances.sop_instance_uid, instances.sop_class_uid, instances.transfer_syntax_uid, instances.digest, instances.path, instances.header, instances.calling_ae_title, instances.received_at)), CAST(instances.study_instance_uid AS BLOB), CAST(instances.series_instance_uid AS BLOB), CAST(instances.sop_instance_uid AS BLOB), CAST(instances.sop_class_uid AS BLOB), CAST(instances.transfer_syntax_uid AS BLOB), CAST(instances.digest AS BLOB), CAST(instances.path AS BLOB), CAST(instances.header AS BLOB), CAST(instances.calling_ae_title AS BLOB), CAST(instances.received_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER objects_verified BEFORE UPDATE OF sop_instance_uid, sop_class_uid, series_instance_uid, transfer_syntax_uid, study_instance_uid, generation, kind, label, digest, recorded_at ON objects WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.sop_instance_uid, OLD.sop_class_uid, OLD.series_instance_uid, OLD.transfer_syntax_uid, OLD.study_instance_uid, OLD.generation, OLD.kind, OLD.label, OLD.digest, OLD.recorded_at)), CAST(OLD.sop_instance_uid AS BLOB), CAST(OLD.sop_class_uid AS BLOB), CAST(OLD.series_instance_uid AS BLOB), CAST(OLD.transfer_syntax_uid AS BLOB), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.generation AS BLOB), CAST(OLD.kind AS BLOB), CAST(OLD.label AS BLOB), CAST(OLD.digest AS BLOB), CAST(OLD.recorded_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER objects_sealed_at_update AFTER UPDATE OF sop_instance_uid, sop_class_uid, series_instance_uid, transfer_syntax_uid, study_instance_uid, generation, kind, label, digest, recorded_at ON objects BEGIN UPDATE objects SET checksum = row_checksum(typeof(max(objects.sop_instance_uid, objects.sop_class_uid, objects.series_instance_uid, objects.transfer_syntax_uid, objects.study_instance_uid, objects.generation, objects.kind, objects.label, objects.digest, objects.recorded_at)), CAST(objects.sop_instance_uid AS BLOB), CAST(objects.sop_class_uid AS BLOB), CAST(objects.series_instance_uid AS BLOB), CAST(objects.transfer_syntax_uid AS BLOB), CAST(objects.study_instance_uid AS BLOB), CAST(objects.generation AS BLOB), CAST(objects.kind AS BLOB), CAST(objects.label AS BLOB), CAST(objects.digest AS BLOB), CAST(objects.recorded_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER objects_sealed_at_insert AFTER INSERT ON objects WHEN NEW.checksum IS NULL BEGIN UPDATE objects SET checksum = row_checksum(typeof(max(objects.sop_instance_uid, objects.sop_class_uid, objects.series_instance_uid, objects.transfer_syntax_uid, objects.study_instance_uid, objects.generation, objects.kind, objects.label, objects.digest, objects.recorded_at)), CAST(objects.sop_instance_uid AS BLOB), CAST(objects.sop_class_uid AS BLOB), CAST(objects.series_instance_uid AS BLOB), CAST(objects.transfer_syntax_uid AS BLOB), CAST(objects.study_instance_uid AS BLOB), CAST(objects.generation AS BLOB), CAST(objects.kind AS BLOB), CAST(objects.label AS BLOB), CAST(objects.digest AS BLOB), CAST(objects.recorded_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER results_verified BEFORE UPDATE OF id, study_instance_uid, generation, model, model_digest, report_series_instance_uid, report_sop_class_uid, report_sop_instance_uid, recorded_at ON results WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.id, OLD.study_instance_uid, OLD.generation, OLD.model, OLD.model_digest, OLD.report_series_instance_uid, OLD.report_sop_class_uid, OLD.report_sop_instance_uid, OLD.recorded_at)), CAST(OLD.id AS BLOB), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.generation AS BLOB), CAST(OLD.model AS BLOB), CAST(OLD.model_digest AS BLOB), CAST(OLD.report_series_instance_uid AS BLOB), CAST(OLD.report_sop_class_uid AS BLOB), CAST(OLD.report_sop_instance_uid AS BLOB), CAST(OLD.recorded_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER results_sealed_at_update AFTER UPDATE OF id, study_instance_uid, generation, model, model_digest, report_series_instance_uid, report_sop_class_uid, report_sop_instance_uid, recorded_at ON results BEGIN UPDATE results SET checksum = row_checksum(typeof(max(results.id, results.study_instance_uid, results.generation, results.model, results.model_digest, results.report_series_instance_uid, results.report_sop_class_uid, results.report_sop_instance_uid, results.recorded_at)), CAST(results.id AS BLOB), CAST(results.study_instance_uid AS BLOB), CAST(results.generation AS BLOB), CAST(results.model AS BLOB), CAST(results.model_digest AS BLOB), CAST(results.report_series_instance_uid AS BLOB), CAST(results.report_sop_class_uid AS BLOB), CAST(results.report_sop_instance_uid AS BLOB), CAST(results.recorded_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER results_sealed_at_insert AFTER INSERT ON results WHEN NEW.checksum IS NULL BEGIN UPDATE results SET checksum = row_checksum(typeof(max(results.id, results.study_instance_uid, results.generation, results.model, results.model_digest, results.report_series_instance_uid, results.report_sop_class_uid, results.report_sop_instance_uid, results.recorded_at)), CAST(results.id AS BLOB), CAST(results.study_instance_uid AS BLOB), CAST(results.generation AS BLOB), CAST(results.model AS BLOB), CAST(results.model_digest AS BLOB), CAST(results.report_series_instance_uid AS BLOB), CAST(results.report_sop_class_uid AS BLOB), CAST(results.report_sop_instance_uid AS BLOB), CAST(results.recorded_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER deliveries_verified BEFORE UPDATE OF id, sop_instance_uid, study_instance_uid, destination, state, urgency, attempts, last_status, next_attempt_at, claimed_by, delivered_at ON deliveries WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.id, OLD.sop_instance_uid, OLD.study_instance_uid, OLD.destination, OLD.state, OLD.urgency, OLD.attempts, OLD.last_status, OLD.claimed_by)), CAST(OLD.id AS BLOB), CAST(OLD.sop_instance_uid AS BLOB), CAST(OLD.study_instance_uid AS BLOB), CAST(OLD.destination AS BLOB), CAST(OLD.state AS BLOB), CAST(OLD.urgency AS BLOB), CAST(OLD.attempts AS BLOB), CAST(OLD.last_status AS BLOB), CAST(OLD.next_attempt_at AS BLOB), CAST(OLD.claimed_by AS BLOB), CAST(OLD.delivered_at AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER deliveries_sealed_at_update AFTER UPDATE OF id, sop_instance_uid, study_instance_uid, destination, state, urgency, attempts, last_status, next_attempt_at, claimed_by, delivered_at ON deliveries BEGIN UPDATE deliveries SET checksum = row_checksum(typeof(max(deliveries.id, deliveries.sop_instance_uid, deliveries.study_instance_uid, deliveries.destination, deliveries.state, deliveries.urgency, deliveries.attempts, deliveries.last_status, deliveries.claimed_by)), CAST(deliveries.id AS BLOB), CAST(deliveries.sop_instance_uid AS BLOB), CAST(deliveries.study_instance_uid AS BLOB), CAST(deliveries.destination AS BLOB), CAST(deliveries.state AS BLOB), CAST(deliveries.urgency AS BLOB), CAST(deliveries.attempts AS BLOB), CAST(deliveries.last_status AS BLOB), CAST(deliveries.next_attempt_at AS BLOB), CAST(deliveries.claimed_by AS BLOB), CAST(deliveries.delivered_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER deliveries_sealed_at_insert AFTER INSERT ON deliveries WHEN NEW.checksum IS NULL BEGIN UPDATE deliveries SET checksum = row_checksum(typeof(max(deliveries.id, deliveries.sop_instance_uid, deliveries.study_instance_uid, deliveries.destination, deliveries.state, deliveries.urgency, deliveries.attempts, deliveries.last_status, deliveries.claimed_by)), CAST(deliveries.id AS BLOB), CAST(deliveries.sop_instance_uid AS BLOB), CAST(deliveries.study_instance_uid AS BLOB), CAST(deliveries.destination AS BLOB), CAST(deliveries.state AS BLOB), CAST(deliveries.urgency AS BLOB), CAST(deliveries.attempts AS BLOB), CAST(deliveries.last_status AS BLOB), CAST(deliveries.next_attempt_at AS BLOB), CAST(deliveries.claimed_by AS BLOB), CAST(deliveries.delivered_at AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER commitment_items_verified BEFORE UPDATE OF id, transaction_uid, delivery_id, has_failed ON commitment_items WHEN OLD.checksum IS NOT row_checksum(typeof(max(OLD.id, OLD.transaction_uid, OLD.delivery_id, OLD.has_failed)), CAST(OLD.id AS BLOB), CAST(OLD.transaction_uid AS BLOB), CAST(OLD.delivery_id AS BLOB), CAST(OLD.has_failed AS BLOB)) BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER commitment_items_sealed_at_update AFTER UPDATE OF id, transaction_uid, delivery_id, has_failed ON commitment_items BEGIN UPDATE commitment_items SET checksum = row_checksum(typeof(max(commitment_items.id, commitment_items.transaction_uid, commitment_items.delivery_id, commitment_items.has_failed)), CAST(commitment_items.id AS BLOB), CAST(commitment_items.transaction_uid AS BLOB), CAST(commitment_items.delivery_id AS BLOB), CAST(commitment_items.has_failed AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER commitment_items_sealed_at_insert AFTER INSERT ON commitment_items WHEN NEW.checksum IS NULL BEGIN UPDATE commitment_items SET checksum = row_checksum(typeof(max(commitment_items.id, commitment_items.transaction_uid, commitment_items.delivery_id, commitment_items.has_failed)), CAST(commitment_items.id AS BLOB), CAST(commitment_items.transaction_uid AS BLOB), CAST(commitment_items.delivery_id AS BLOB), CAST(commitment_items.has_failed AS BLOB)) WHERE rowid = NEW.rowid; END;
CREATE TRIGGER instances_counted_at_insert AFTER INSERT ON instances BEGIN UPDATE studies SET instances_rows = instances_rows + 1 WHERE study_instance_uid = NEW.study_instance_uid; END;
CREATE TRIGGER instances_counted_at_delete AFTER DELETE ON instances BEGIN UPDATE studies SET instances_rows = instances_rows - 1 WHERE study_instance_uid = OLD.study_instance_uid; END;
CREATE TRIGGER results_counted_at_insert AFTER INSERT ON results BEGIN UPDATE studies SET results_rows = results_rows + 1 WHERE study_instance_uid = NEW.study_instance_uid; END;
CREATE TRIGGER results_counted_at_delete AFTER DELETE ON results BEGIN UPDATE studies SET results_rows = results_rows - 1 WHERE study_instance_uid = OLD.study_instance_uid; END;
CREATE TRIGGER objects_counted_at_insert AFTER INSERT ON objects BEGIN UPDATE studies SET objects_rows = objects_rows + 1 WHERE study_instance_uid = NEW.study_instance_uid; END;
CREATE TRIGGER objects_counted_at_delete AFTER DELETE ON objects BEGIN UPDATE studies SET objects_rows = objects_rows - 1 WHERE study_instance_uid = OLD.study_instance_uid; END;
COMMIT;
